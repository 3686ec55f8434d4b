"""A compiled network at the edges: no samples, a wanted gradient, someone who counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import isospike as iso
from helpers import enliven
from isospike.errors import ConfigError
from isospike.inference import EarlyExit


@pytest.fixture(scope="module")
def model():
    return enliven(iso.create_model("ms_resnet8", T=3, width=8, num_classes=5)).eval()


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (3, 0, 3, 16, 16)], ids=str)
def test_no_samples_give_no_logits(model, shape, precision):
    net, nothing = model.compile_for_inference(precision), torch.empty(shape)
    assert net(nothing).shape == model(nothing).shape == (0, 5)
    assert net(nothing, per_step=True).shape == model(nothing, per_step=True).shape == (3, 0, 5)
    decision = EarlyExit(net, 0.5)(nothing)
    assert (decision.logits.shape, decision.steps.tolist()) == ((0, 5), [])


def test_no_samples_have_no_batch_statistics(model):
    fresh = iso.create_model("ms_resnet8", T=3, width=8)
    for backend in ("auto", "reference"):
        with (
            iso.use_backend(backend),
            pytest.raises(iso.IsospikeError, match="^batch statistics need two values per ch"),
        ):
            fresh(torch.empty(0, 3, 16, 16))


def test_an_input_that_wants_a_gradient_is_refused_where_it_would_get_none(model):
    net, images = model.compile_for_inference(), torch.randn(2, 3, 16, 16, requires_grad=True)
    with pytest.raises(
        ConfigError, match="^a compiled network has no gradient, and this input asks for one: detach it"
    ):
        net(images)
    with torch.no_grad():
        logits = net(images)
    torch.testing.assert_close(logits, net(images.detach()))
    assert torch.autograd.grad(model(images).sum(), images)[0].abs().sum() > 0


def test_who_counts_operations_is_told_that_they_are_out_of_sight(model):
    net, images = model.compile_for_inference(), torch.randn(2, 3, 16, 16)
    with (
        FlopCounterMode(display=False) as counter,
        pytest.raises(ConfigError, match="FlopCounterMode and other dispatch"),
    ):
        net(images)
    assert counter.get_total_flops() == 0
    assert net(images).shape == (2, 5)
