"""Checkpoints as their authors save them, in files, and what the models make of them."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

import isospike as iso
from helpers import enliven
from isospike.errors import CheckpointError, UnknownName
from isospike.weights import PUBLISHED
from published_nets import DSNet, MSNet, SEWNet, T, trained

IF = dict(iso.TOPOLOGIES["sew"].neuron)
SMALL = {"width": 4, "num_classes": 5, "T": T}


def sew(depth, **options):
    return SEWNet(depth, **options)


def spiking(depth, **options):
    return SEWNet(depth, spiking_sum=True, **options)


# By source: (their network, our model, options of ours beside the small size, depths)
NETS = {
    "ms_resnet": (MSNet, "ms_resnet{}", {}, (18, 34)),
    "ms_resnet104": (MSNet, "ms_resnet{}", {}, (104,)),
    "sew_resnet": (sew, "sew_resnet{}", {}, (18, 34, 50, 101, 152)),
    "spiking_resnet": (spiking, "vanilla_resnet{}", {"neuron": IF}, (18, 34, 50, 101, 152)),
    "ds_resnet": (DSNet, "ds_resnet{}", {}, (14, 20, 32, 44, 68)),
}
CASES = [(source, depth) for source in PUBLISHED for depth in NETS[source][3]]


def pair(source, depth):
    """Their network, as trained, and our untrained model, both small and in float64."""
    torch.manual_seed(depth)
    theirs, name, options, _ = NETS[source]
    ours = iso.create_model(name.format(depth), **SMALL, **options)
    return trained(theirs(depth, width=4, classes=5)), enliven(ours).double().eval()


def saved(tmp_path, content, name="resnet.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


@pytest.mark.parametrize(("source", "depth"), CASES)
def test_the_model_computes_what_the_published_network_computes(tmp_path, source, depth):
    theirs, ours = pair(source, depth)
    iso.load_published(ours, saved(tmp_path, theirs.state_dict()))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=1e-9, atol=1e-9)
        assert expected.std(0).min() > 1e-4  # the images are told apart, so that equality says something


@pytest.mark.parametrize(
    ("source", "net", "parameters"),
    [
        ("ms_resnet", lambda: MSNet(18), 11_693_736),
        ("ms_resnet", lambda: MSNet(34), 21_801_896),
        ("ms_resnet104", lambda: MSNet(104), 77_350_504),
        ("sew_resnet", lambda: SEWNet(50), 25_557_032),
        ("spiking_resnet", lambda: SEWNet(18, spiking_sum=True), 11_689_512),
        ("ds_resnet", lambda: DSNet(20), 4_327_754),
    ],
)
def test_at_full_size_every_shape_fits(source, net, parameters):
    with torch.device("meta"):
        theirs = net()
        model = iso.create_model(NETS[source][1].format(theirs.depth))
    assert sum(p.numel() for p in theirs.parameters()) == parameters
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = {name: t for name, t in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert {PUBLISHED[source].keys.rename(name): tensor.shape for name, tensor in state.items()} == own


PLACES = {
    "ms_resnet": {
        "conv1.0.weight": "stem.conv.weight",
        "conv1.1.bn.running_var": "stem.norm.running_var",
        "conv2_x.1.residual_function.1.weight": "stages.0.1.branch.conv1.weight",
        "conv2_x.1.residual_function.2.bn.bias": "stages.0.1.branch.norm1.bias",
        "conv5_x.0.residual_function.4.weight": "stages.3.0.branch.conv2.weight",
        "conv5_x.0.residual_function.5.bn.weight": "stages.3.0.branch.norm2.weight",
        "conv3_x.0.shortcut.0.weight": "stages.1.0.skip.conv.weight",
        "conv3_x.0.shortcut.1.bn.running_mean": "stages.1.0.skip.norm.running_mean",
        "fc.bias": "head.fc.bias",
    },
    "ms_resnet104": {
        "conv1.0.bias": "stem.conv1.bias",
        "conv1.1.weight": "stem.conv2.weight",
        "conv1.2.weight": "stem.conv3.weight",
        "conv1.3.bn.weight": "stem.norm.weight",
        "conv4_x.31.residual_function.1.weight": "stages.2.31.branch.conv1.weight",
        "conv4_x.0.shortcut.1.weight": "stages.2.0.skip.conv.weight",
        "conv4_x.0.shortcut.2.bn.weight": "stages.2.0.skip.norm.weight",
    },
    "sew_resnet": {
        "conv1.weight": "stem.conv.weight",
        "bn1.running_mean": "stem.norm.running_mean",
        "layer1.1.conv2.module.0.weight": "stages.0.1.branch.conv2.weight",
        "layer4.1.conv2.module.1.running_var": "stages.3.1.branch.norm2.running_var",
        "layer2.0.downsample.0.module.0.weight": "stages.1.0.skip.conv.weight",
        "layer2.0.downsample.0.module.1.bias": "stages.1.0.skip.norm.bias",
        "fc.weight": "head.fc.weight",
    },
    "spiking_resnet": {
        "layer3.0.downsample.module.0.weight": "stages.2.0.skip.conv.weight",
        "layer3.0.downsample.module.1.bias": "stages.2.0.skip.norm.bias",
    },
    "ds_resnet": {
        "conv1.weight": "stem.conv.weight",
        "bn1.bn.weight": "stem.norm.weight",
        "layer1.execute.1.conv2.weight": "stages.0.1.branch.conv2.weight",
        "layer3.execute.1.bn2.bn.weight": "stages.2.1.branch.norm2.weight",
        "layer2.execute.0.shortcut.0.weight": "stages.1.0.skip.conv.weight",
        "layer2.execute.0.shortcut.1.bn.running_var": "stages.1.0.skip.norm.running_var",
        "voting.bias": "head.fc.bias",
    },
}


@pytest.mark.parametrize("source", list(PUBLISHED))
def test_values_land_in_their_places(tmp_path, source):
    theirs, ours = pair(source, NETS[source][3][0])
    iso.load_published(ours, saved(tmp_path, theirs.state_dict()))
    loaded = ours.state_dict()
    for their_name, our_name in PLACES[source].items():
        assert torch.equal(loaded[our_name], theirs.state_dict()[their_name]), our_name


def test_a_constant_factor_of_a_norm_is_divided_out(tmp_path):
    theirs, ours = pair("spiking_resnet", 18)
    assert ours.stages[0][0].branch.norm2.scale == pytest.approx(0.5**0.5)
    iso.load_published(ours, saved(tmp_path, theirs.state_dict()))
    torch.testing.assert_close(
        ours.stages[0][0].branch.norm2.weight, theirs.layer1[0].conv2.module[1].weight * 2**0.5, rtol=1e-7, atol=0
    )


def test_a_network_for_events_norms_its_input_first(tmp_path):
    theirs, ours = (
        trained(DSNet(14, width=4, classes=5, normed=True)),
        iso.create_model("ds_resnet14", **SMALL, stem="cifar_normed"),
    )
    ours.double().eval()
    iso.load_published(ours, saved(tmp_path, {"model": theirs.state_dict(), "epoch": 120}))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-9, atol=1e-9)


def as_sew_training_saves_it(state):
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    args = argparse.Namespace(model="sew_resnet18", T=4, connect_f="ADD")
    return {"model": state, "optimizer": optimizer, "lr_scheduler": {"T_max": 320}, "epoch": 319, "args": args}


@pytest.mark.parametrize(
    "around",
    [
        as_sew_training_saves_it,
        lambda state: {"state_dict": state, "scaler": {"scale": 65536.0}, "best_acc1": torch.tensor(60.0)},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.module.{name}": tensor for name, tensor in state.items()}},
    ],
    ids=["sew", "amp", "ddp", "ddp twice"],
)
def test_what_training_left_around_the_weights_is_taken_off(tmp_path, around):
    theirs, ours = pair("sew_resnet", 18)
    iso.load_published(ours, saved(tmp_path, around(theirs.state_dict())))
    assert torch.equal(ours.head.fc.weight, theirs.fc.weight)


def test_safetensors_are_read_too(tmp_path, monkeypatch):
    monkeypatch.setattr("isospike.weights.foreign._load", None)  # some releases of torch.load read them as well
    theirs, ours = pair("ms_resnet", 18)
    save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    iso.load_published(ours, tmp_path / "x.safetensors", source="ms_resnet")
    assert torch.equal(ours.head.fc.weight, theirs.fc.weight)


def without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("conv3_x.1.residual_function.4.weight"), r"'stages.1.1.branch.conv2.weight' is not in .*resnet.pth"),
        (without("conv1.1.bn.running_var"), r"'stem.norm.running_var' is not in"),
        (
            lambda s: {**s, "conv1.7.weight": torch.ones(1)},
            r"'conv1.7.weight' in .*pth is no name that ms_resnet gives",
        ),
        (lambda s: {**s, "conv2_x.9.shortcut.0.weight": torch.ones(1)}, r"'stages.0.9.skip.conv.weight' is only in"),
        (
            lambda s: {**s, "conv02_x.0.shortcut.0.weight": torch.ones(1)},
            r"'conv02_x.0.shortcut.0.weight' in .* no name",
        ),
        (lambda s: {**s, "fc.weight": torch.ones(7, 32)}, r"'head.fc.weight' is \[5, 32\] in the model and \[7, 32\]"),
        (lambda s: {"conv9": torch.ones(1)}, r"no source gives a weight a name as in .*'conv9': there are ms_resnet, "),
    ],
)
def test_a_name_or_shape_that_does_not_fit_is_refused_and_the_model_is_as_it_was(tmp_path, change, says):
    theirs, ours = pair("ms_resnet", 18)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(CheckpointError, match=says):
        iso.load_published(ours, saved(tmp_path, change(theirs.state_dict())))
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_weights_of_another_depth_or_unit_are_refused(tmp_path):
    theirs, ours = pair("sew_resnet", 18)
    path = saved(tmp_path, theirs.state_dict())
    with pytest.raises(CheckpointError, match=r"'stages.0.2.branch.conv1.weight' is not in"):
        iso.load_published(iso.create_model("sew_resnet34", **SMALL), path)
    for other, part in {
        "vanilla_resnet18": "'conv norm spike conv norm spike' as branch",
        "plain_resnet18": "'conv norm spike' as project, this model's ''",
    }.items():
        with pytest.raises(CheckpointError, match=rf"are for sew_resnet18, 34.*{part}"):
            iso.load_published(iso.create_model(other, **SMALL), path)
    strided = saved(tmp_path, pair("ms_resnet", 18)[0].state_dict(), "ms.pth")
    with pytest.raises(CheckpointError, match=r"'conv norm' as project, this model's 'spike conv norm'"):
        iso.load_published(iso.create_model("ms_resnet18", project="spike conv norm", **SMALL), strided)
    with pytest.raises(CheckpointError, match=r"'.*' in .* is no name that ms_resnet gives"):
        iso.load_published(iso.create_model("ms_resnet18", **SMALL), path, source="ms_resnet")
    with pytest.raises(UnknownName, match=r"unknown source of weights 'sew'; .*sew_resnet"):
        iso.load_published(ours, path, source="sew")


def touch(path):
    path.write_text("it ran")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return touch, (self.path,)


def test_nothing_foreign_is_unpickled(tmp_path):
    theirs, ours = pair("sew_resnet", 18)
    with pytest.raises(CheckpointError, match=r"resnet.pth holds a published_nets.SEWNet, and nothing foreign is unp"):
        iso.load_published(ours, saved(tmp_path, theirs))
    path = saved(tmp_path, {"model": theirs.state_dict(), "extra": Evil(tmp_path / "ran")})
    with pytest.raises(CheckpointError, match="nothing foreign is unpickled"):
        iso.load_published(ours, path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)  # the trap works where it is let
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is damaged or not a file of weights"),
        (b"hello", "is damaged or not a file of weights"),
        (b"PK\x03\x04 and no more", "is damaged or not a file of weights"),
        (None, "does not exist"),
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"model": {"lr": 0.1}}, "holds no state dict"),
    ],
    ids=str,
)
def test_files_without_a_state_dict_are_refused(tmp_path, content, says):
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*x.pth {says}[^\n]*$"):
        iso.load_published(iso.create_model("ms_resnet18", width=4), path)


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=r"x.safetensors is damaged or not a file of weights"):
        iso.load_published(iso.create_model("ms_resnet18", width=4), tmp_path / "x.safetensors")
