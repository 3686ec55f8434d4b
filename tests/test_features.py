"""Feature maps of every stage, under the names that timm gives them."""

import pytest
import torch

import isospike as iso
from helpers import enliven
from isospike.errors import ConfigError
from isospike.residual import TOPOLOGIES

NAMES = [f"{topology}_resnet{depth}" for topology in TOPOLOGIES for depth in (8, 18)] + ["sew_7b_net"]
DEPTH_18_STRIDES = {"imagenet": [4, 4, 8, 16, 32], "strided": [2, 4, 8, 16, 32]}


def make(name):
    options = {} if name.endswith("net") else {"width": 8}
    return enliven(iso.create_model(name, T=2, **options))


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_maps_are_as_announced_and_those_of_the_network(name, training):
    model = make(name).train(training)
    info, size = model.feature_info, model.layout.total_stride * (1 if model.layout.pool_stages else 2)
    x = torch.randn(2, model.in_channels, size, size)
    seen = {}
    modules = dict(model.named_modules())
    for stage in info.module_name():
        modules[stage].register_forward_hook(lambda m, args, out, stage=stage: seen.setdefault(stage, []).append(out))
    features, maps = model.forward_intermediates(x)
    for (channels, reduction, module), found in zip(info, maps, strict=True):
        assert found.shape == (2, 2, channels, size // reduction, size // reduction)
        assert torch.equal(found, torch.cat(seen[module]).expand_as(found))
    assert info.reduction()[-1] == model.layout.total_stride
    torch.testing.assert_close(features, model.forward_features(x))


def test_reductions_of_the_published_bodies():
    for name in ("sew_resnet18", "ms_resnet18"):
        model = make(name)
        assert model.feature_info.reduction() == DEPTH_18_STRIDES[model.layout.stem]
        assert model.feature_info.channels() == [8, 8, 16, 32, 64]
    assert make("sew_resnet8").feature_info.module_name() == ["opening", "stages.0", "stages.1", "stages.2"]
    assert make("ms_resnet8").feature_info.module_name()[0] == "stem"


def test_maps_are_chosen_by_index():
    model, x = make("ms_resnet8").eval(), torch.randn(1, 3, 16, 16)
    maps = model.forward_intermediates(x, T=3, intermediates_only=True)
    assert [len(m) for m in maps] == [3] * 4
    last, first = model.forward_intermediates(x, [-1, 0], T=3, intermediates_only=True)
    assert torch.equal(last, maps[3])
    assert torch.equal(first, maps[0])


def test_a_backbone_puts_out_a_list():
    torch.manual_seed(0)
    backbone = iso.create_model("ms_resnet8", width=8, features_only=True, out_indices=(1, 2)).eval()
    torch.manual_seed(0)
    model = iso.create_model("ms_resnet8", width=8).eval()
    assert backbone.feature_info.channels() == [8, 16]
    x = torch.randn(2, 3, 16, 16)
    expected = model.forward_intermediates(x, [1, 2], intermediates_only=True)
    for found, steps in zip(backbone(x, per_step=True), expected, strict=True):
        assert torch.equal(found, steps)
    torch.testing.assert_close(backbone(x), [steps.mean(0) for steps in expected])
    assert iso.FeatureMaps(model).feature_info == model.feature_info


def test_a_backbone_stops_behind_the_last_map_that_is_wanted():
    model = make("sew_resnet8").eval()
    ran = []
    for stage in model.stages:
        stage.register_forward_hook(lambda m, args, out: ran.append(m))
    iso.FeatureMaps(model, [0, 2])(torch.randn(1, 3, 16, 16), T=1)
    assert ran == [model.stages[0], model.stages[1]]


def test_maps_carry_gradients_to_every_layer_before_them():
    model = make("ms_resnet8")
    sum(m.square().mean() for m in iso.FeatureMaps(model)(torch.randn(2, 3, 16, 16))).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None and not name.startswith("head")]
    assert missing == []


@pytest.mark.parametrize(
    ("indices", "message"),
    [([4], "no feature map 4: .* to 3"), ([-5], "no feature map -5"), ([], "asked for")],
)
def test_maps_that_are_not_there_are_refused(indices, message):
    model = make("ms_resnet8")
    with pytest.raises(ConfigError, match=message):
        iso.FeatureMaps(model, indices)
    with pytest.raises(ConfigError, match=message):
        model.forward_intermediates(torch.randn(1, 3, 16, 16), indices)
    with pytest.raises(ConfigError, match="goes with features_only=True"):
        iso.create_model("ms_resnet8", out_indices=[1])
