import pytest
import torch

import isospike as iso
from helpers import enliven
from isospike.errors import ConfigError, ShapeError, UnknownName
from isospike.layers import BatchNorm
from isospike.models.bodies import NETS
from isospike.neurons import Neuron

SMALL = [name for name in iso.list_models() if name.endswith(("_resnet8", "_resnet50"))] + ["vanilla_resnet19"]


def test_names_cover_the_table():
    assert {"ms_resnet20", "ms_resnet104", "ms_resnet482", "sew_resnet152", "plain_resnet8"} <= set(iso.list_models())
    assert "sew_resnet104" not in iso.list_models()
    assert iso.list_models("ms_*") == [name for name in iso.list_models() if name.startswith("ms_")]
    assert iso.list_models("*_resnet19") == ["ms_resnet19", "plain_resnet19", "sew_resnet19", "vanilla_resnet19"]
    assert {f"{t}_resnet{depth}" for t in iso.TOPOLOGIES for depth in (18, 152, 20, 110)} <= set(iso.list_models())
    assert iso.list_models("sew_*7b_net") == ["sew_7b_net", "sew_wide_7b_net"]


def images_for(model, batch):
    """32x32, or what gives the statistics of the last norms 3x3 pixels; networks that end in one get what they ask."""
    size = model.layout.input_size if model.layout.pool_stages else max(32, 3 * model.layout.total_stride)
    return torch.randn(batch, model.in_channels, size, size)


@pytest.mark.parametrize("name", iso.list_models())
def test_every_model_goes_forward_and_backward(name):
    """Thin, as no wiring depends on the width; a network with a name of its own has the width that it has."""
    thin = {} if name.endswith(tuple(NETS)) else {"width": 8}
    model = iso.create_model(name, num_classes=7, **thin)
    logits = model(images_for(model, 2), T=2)
    assert logits.shape == (2, 7)
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 3])).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []
    assert model.head.fc.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("name", iso.list_models())
def test_every_card_tells_the_truth(name):
    """Parameters, neurons and operations have their numbers in ``test_counts.py``."""
    card = iso.model_card(name)
    row, network = iso.TOPOLOGIES[card.topology], name.removeprefix(f"{card.topology}_")
    assert (NETS[network].T if network in NETS else row.T) == card.T
    assert card.source == row.source
    assert card.macs == card.stem_macs + card.T * (card.unit_macs + card.projection_macs + card.head_macs)
    assert card.as_dict()["macs"] == card.macs


@pytest.mark.parametrize("name", iso.list_models("*_resnet8") + ["sew_7b_net"])
def test_the_ann_twin_has_rectifiers_and_the_same_weights(name):
    model, twin = iso.create_model(name), iso.create_ann_twin(name)
    own = {n: p.shape for n, p in model.named_parameters() if not n.endswith(".w")}  # PLIF's time constants
    assert {n: p.shape for n, p in twin.named_parameters()} == own
    assert {type(m) for m in twin.modules() if isinstance(m, Neuron)} == {iso.ReLU}
    x = images_for(twin, 2)
    assert twin.T == 1
    twin.eval()
    torch.testing.assert_close(twin(x), twin(x, T=3))  # no memory: every step gives the same


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("batch", [1, 3])
def test_streaming_gives_the_bits_of_the_whole_clip(name, batch):
    model = enliven(iso.create_model(name, num_classes=7)).eval()
    clip = torch.randn(3, batch, 3, 32, 32)
    with torch.no_grad():
        whole = model(clip, per_step=True)
        mean = model(clip)
    state, streamed = None, []
    for x in clip:
        logits, state = model.step(x, state)
        streamed.append(logits)
    assert torch.equal(torch.stack(streamed), whole)
    assert torch.equal(torch.stack(streamed).mean(0), mean)
    assert not torch.equal(whole[0], whole[2])
    assert set(state) == {n for n, m in model.named_modules() if isinstance(m, Neuron)}


@pytest.mark.parametrize("name", SMALL)
def test_a_static_image_gives_the_bits_of_its_copies_in_eval(name):
    model = enliven(iso.create_model(name, num_classes=7)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x, T=3), model(x.expand(3, *x.shape)))


@pytest.mark.parametrize("name", SMALL)
def test_all_steps_at_once_equal_step_by_step(name):
    """The two ways through time, the folded one of training and the stepwise one of eval, on the same statistics."""
    model = enliven(iso.create_model(name, num_classes=7, width=16)).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    stepwise = model(x, T=3, per_step=True)
    model.training = True  # the model folds time, while its norms and dropout stay in eval
    torch.testing.assert_close(model(x, T=3, per_step=True), stepwise)
    torch.testing.assert_close(model(x.expand(3, *x.shape), per_step=True), stepwise)


@pytest.mark.parametrize("name", SMALL)
def test_nothing_of_a_forward_stays_in_the_model(name):
    model = enliven(iso.create_model(name)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first = model(x)
        model(torch.randn(5, 3, 32, 32), T=1)
        assert torch.equal(model(x), first)


def test_steps_at_call_time_and_from_the_preset():
    model = iso.create_model("sew_resnet8").eval()
    x = torch.randn(2, 3, 32, 32)
    assert model(x, per_step=True).shape == (4, 2, 10)
    assert model(x, T=7, per_step=True).shape == (7, 2, 10)
    assert iso.create_model("sew_resnet8", T=2).eval()(x, per_step=True).shape == (2, 2, 10)


def test_features_and_classifier():
    model = iso.create_model("ms_resnet18", num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_features(x, T=2)
    assert features.shape == (2, 2, 512, 2, 2)
    assert set(features.unique().tolist()) <= {0.0, 1.0}
    model.reset_classifier(9)
    assert model(x, T=2).shape == (2, 9)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x, T=2), features.mean((0, -2, -1)))
    assert iso.create_model("ms_resnet8", num_classes=0)(x).shape == (2, 64)
    with pytest.raises(ConfigError, match="num_classes must be 0 or more, got -1"):
        model.reset_classifier(-1)


@pytest.mark.parametrize("options", [{}, {"T": 2, "num_classes": 0}, {"width": 8, "neuron": {"kind": "if"}}], ids=str)
def test_a_model_knows_the_options_that_build_it_again(options):
    model = iso.create_model("sew_resnet8", **options)
    again = iso.create_model(**model.options)
    assert (again.topology, again.layout, again.T) == (model.topology, model.layout, model.T)
    model.reset_classifier(3)
    assert iso.create_model(**model.options).head.fc.weight.shape == model.head.fc.weight.shape


def test_options_change_what_they_name():
    assert iso.create_model("ms_resnet50").layout.bottleneck
    cifar = iso.create_model("ms_resnet50", body="cifar").layout
    assert (cifar.blocks, cifar.widths, cifar.bottleneck) == ((8, 8, 8), (16, 32, 64), False)
    assert iso.create_model("ms_resnet8", width=32).layout.widths == (32, 64, 128)
    assert iso.create_model("ms_resnet18", stem="cifar").layout.strides == (1, 2, 2, 2)
    assert iso.create_model("ms_resnet18").layout.strides == (2, 2, 2, 2)
    assert iso.create_model("sew_resnet18").layout.strides == (1, 2, 2, 2)
    assert iso.create_model("sew_resnet8", join="iand").topology.join.name == "iand"
    assert list(dict(iso.create_model("ms_resnet8", project="spike conv norm").stages[1][0].skip.named_children())) == [
        "pool",
        "spike",
        "conv",
        "norm",
    ]
    assert not hasattr(iso.create_model("ms_resnet8", pool_projection=False).stages[1][0].skip, "pool")
    assert iso.create_model("ms_resnet20", stem="dvs").layout.strides == (2, 2, 2)
    assert iso.create_model("ds_resnet8", in_channels=2, stem="cifar_normed").stem.input_norm.scale == 0.6
    assert iso.create_model("vanilla_resnet8", body="cifar_projected").stages[0][0].projects
    assert iso.create_model("ms_resnet8", neuron={"decay": 0.5}).topology.neuron["v_threshold"] == 0.5
    assert isinstance(iso.create_model("ms_resnet8", neuron={"kind": "plif"}).closing.spike, iso.PLIF)
    assert (iso.create_model("ms_resnet8", tail_init=0.1).stages[0][0].branch.norm2.weight == 0.1).all()
    assert iso.create_model("srm_resnet8").topology.name == "ms"
    assert iso.create_model("ms_resnet8", dropout=0.5).head.dropout.share == 0.5
    with torch.device("meta"):
        assert iso.create_model("ms_resnet104").head.dropout.share == 0.2


def test_networks_for_events_pool_behind_every_stage_and_widen_where_they_must():
    net = iso.create_model("sew_wide_7b_net").eval()
    assert net.forward_features(torch.randn(1, 2, 128, 128), T=1).shape == (1, 1, 128, 1, 1)
    assert [stage.widening is not None for stage in net.stages] == [False] * 4 + [True] + [False] * 2
    assert [name for name, _ in net.stages[4].widening.named_children()] == ["conv", "norm", "spike"]
    assert net.stages[4].widening.conv.kernel_size == (1, 1)
    paper = iso.create_model("sew_wide_7b_net", stem="cifar")  # the paper's text has 3x3 where its code has 1x1
    assert paper.stages[4].widening.conv.kernel_size == paper.stem.conv.kernel_size == (3, 3)
    neuron = net.stages[0][0].branch.spike1
    assert neuron.w.sigmoid().item() == pytest.approx(0.5)
    assert (neuron.rule.v_threshold, neuron.rule.detach_reset, neuron.rule.surrogate) == (1, True, iso.Arctan(2.0))
    assert (net.T, net.head.fc.out_features, iso.create_model("sew_7b_net").head.fc.out_features) == (16, 10, 11)


def test_the_baselines_of_sew_and_mlf_are_options_of_vanilla():
    neuron = {"kind": "if", "surrogate": "arctan", "detach_reset": True}
    model = iso.create_model("vanilla_resnet8", alpha=1, weight_init="kaiming_fan_out", neuron=neuron)
    assert {(n.scale, n.weight[0].item()) for n in model.modules() if isinstance(n, BatchNorm)} == {(1, 1)}
    std = model.stages[2][0].branch.conv2.weight.std().item()
    assert std == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    mlf = iso.create_model("vanilla_resnet8", alpha=1, weight_init="kaiming_fan_in", neuron={"kind": "mlf"}, width=64)
    assert {n.scale for n in mlf.modules() if isinstance(n, BatchNorm)} == {0.6}
    assert mlf.head.fc.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)


def test_dropout_is_drawn_once_per_sample():
    model = enliven(iso.create_model("ms_resnet8", dropout=0.5)).eval()
    model.training = True
    model.head.train()
    x = torch.randn(4, 3, 32, 32)
    torch.manual_seed(1)
    logits = model(x)
    torch.manual_seed(1)
    per_step = model(x, per_step=True)
    torch.testing.assert_close(per_step.mean(0), logits)
    rates = model.forward_features(x).mean((0, -2, -1))
    torch.manual_seed(1)
    kept = torch.nn.functional.dropout(torch.ones_like(rates), 0.5)
    torch.testing.assert_close(logits, model.head.fc(rates * kept))


@pytest.mark.parametrize("in_channels", [1, 2, 3])
def test_the_network_is_channels_last_inside(in_channels):
    model = iso.create_model("ms_resnet8", in_channels=in_channels)
    seen = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | BatchNorm):
            module.register_forward_hook(
                lambda m, args, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
            )
    model(torch.randn(2, in_channels, 32, 32), T=2)
    assert seen
    assert all(seen)


def test_the_stem_sees_a_static_image_once():
    model, batches = iso.create_model("ms_resnet8"), []
    model.stem.conv.register_forward_hook(lambda m, args, out: batches.append(args[0].shape[0]))
    x = torch.randn(2, 3, 32, 32)
    model(x, T=5)
    model.eval()(x, T=5)
    assert batches == [2, 2]


@pytest.mark.parametrize(
    ("shape", "T", "message"),
    [
        ((2, 1, 32, 32), None, r"takes \[B, 3, H, W\], got \[2, 1, 32, 32\]"),
        ((3, 32, 32), None, r"takes \[B, 3, H, W\] or \[T, B, 3, H, W\], got \[3, 32, 32\]"),
        ((4, 2, 3, 32, 32), 5, "has 4 time steps, T=5 was asked for"),
        ((2, 3, 32, 32), 0, "must be at least 1, got 0"),
        ((0, 2, 3, 32, 32), None, "must be at least 1, got 0"),
        ((2, 3, 16, 32), None, "images of 16x32 are smaller than the stride of this network, 32"),
    ],
)
def test_input_that_does_not_fit_is_refused_at_the_door(shape, T, message):
    with pytest.raises(ShapeError, match=message):
        iso.create_model("ms_resnet18")(torch.zeros(shape), T=T)


def test_streaming_refuses_training_mode_and_a_foreign_state():
    model = iso.create_model("ms_resnet8")
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ConfigError, match=r"call model.eval\(\) first"):
        model.step(x)
    _, state = iso.create_model("ms_resnet14").eval().step(x)
    with pytest.raises(ConfigError, match="'stages.0.1.branch.spike1' is a neuron of only one of the two"):
        model.eval().step(x, state)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("ms_resnt20", {}, UnknownName, "unknown model 'ms_resnt20'; nearest: ms_resnet20"),
        ("mss_resnet20", {}, UnknownName, "nearest: ms_resnet20"),
        ("ms_resnet21", {}, UnknownName, "no body of 'ms' has depth 21.*CIFAR 6n\\+2; nearest listed: ms_resnet20"),
        ("sew_resnet103", {}, UnknownName, "nearest listed: sew_resnet101, sew_resnet110"),
        ("ms_resnet18", {"body": "cifar"}, UnknownName, "no body of 'ms' has depth 18.*CIFAR 6n"),
        ("ms_resnet20", {"body": "cifer"}, UnknownName, "unknown body of 'ms' 'cifer'; nearest: cifar"),
        ("ms_resnet20", {"stem": "cifer"}, UnknownName, "unknown stem 'cifer'; nearest: cifar"),
        ("sew_resnet20", {"join": "nand"}, UnknownName, "unknown join 'nand'"),
        ("ms_resnet20", {"join": "and"}, ConfigError, "use 'add'"),
        ("plain_resnet20", {"join": "add"}, ConfigError, "'plain' has no skip, so join='add' has no meaning"),
        ("ms_resnet20", {"alpha": 1.0}, ConfigError, "'ms': its norms have no factor alpha"),
        ("vanilla_resnet20", {"alpha": 0}, ConfigError, "alpha must be greater than 0, got 0"),
        ("vanilla_resnet20", {"tail_init": -1.0}, ConfigError, "tail_init must be at least 0, got -1"),
        ("vanilla_resnet20", {"dropout": 1}, ConfigError, r"dropout is a share in \[0, 1\), got 1"),
        ("ms_resnet20", {"weight_init": "kaiming"}, UnknownName, "unknown initialisation of weights 'kaiming'"),
        ("sew_7b_net", {"width": 8}, ConfigError, "'sew_7b_net' is a single network: it takes neither body nor width"),
        ("ms_resnet20", {"neuron": {"kind": "izhikevich"}}, UnknownName, "unknown neuron 'izhikevich'"),
        ("ms_resnet20", {"neuron": {"decya": 1}}, UnknownName, "nearest: decay"),
        ("ms_resnet20", {"width": 15}, ConfigError, "an even number from 2 on, got 15"),
        ("ms_resnet20", {"dropout": 1.0}, ConfigError, r"a share in \[0, 1\), got 1.0"),
        ("ms_resnet20", {"num_classes": -1}, ConfigError, "num_classes must be 0 or more"),
        ("ms_resnet20", {"T": 0}, ShapeError, "at least 1, got 0"),
    ],
)
def test_names_and_options_that_cannot_be_are_answered(name, options, error, message):
    with pytest.raises(error, match=message):
        iso.create_model(name, **options)
