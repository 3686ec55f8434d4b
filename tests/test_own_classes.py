"""Classes of a user's own run as they are written: nothing fused or compiled takes them for their parents."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import isospike as iso
from helpers import Step, enliven
from isospike.errors import ConfigError
from isospike.layers import BatchNorm, Conv2d, FoldedNeuron, PerStepNorm
from isospike.neurons import LIF
from isospike.ops import FireRule, use_backend
from isospike.ops.cpu import leaky_fire as cpu

T = 3


class OwnNorm(BatchNorm):
    def forward(self, x):
        return super().forward(x) * 0.5 + 1


class OwnPerStepNorm(PerStepNorm):
    def forward(self, x, start):
        steps = torch.arange(start, start + len(x), dtype=x.dtype).view(-1, 1, 1, 1, 1)
        return super().forward(x, start) * 0.5 + steps


class OwnConv(Conv2d):
    def forward(self, x):
        return super().forward(x) * 3


class OwnConvInside(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight * 3, bias)


class OwnNeuron(LIF):
    def forward(self, x, v=None):
        s, v = super().forward(x - 0.25, v)
        return 1 - s, v


@dataclass(frozen=True)
class OwnRule(FireRule):
    def reset_after(self, h, s):
        return super().reset_after(h, s) + 0.125


def with_class(kind, own, **options):
    """A model whose layers of class ``kind`` are of class ``own``."""
    model = enliven(iso.create_model("ms_resnet8", T=T, width=8, num_classes=5, **options))
    for module in model.modules():
        if type(module) is kind:
            module.__class__ = own
    return model


def with_rule():
    model = enliven(iso.create_model("ms_resnet8", T=T, width=8, num_classes=5))
    for module in model.modules():
        if isinstance(module, LIF):
            module.rule = OwnRule(**vars(module.rule))
    return model


OWN = {
    "norm": lambda: with_class(BatchNorm, OwnNorm),
    "per step": lambda: with_class(PerStepNorm, OwnPerStepNorm, per_step_norm=True),
    "norm of one step": lambda: with_class(BatchNorm, OwnNorm, per_step_norm=True),
    "conv": lambda: with_class(Conv2d, OwnConv),
    "inside a conv": lambda: with_class(Conv2d, OwnConvInside),
    "neuron": lambda: with_class(LIF, OwnNeuron),
    "rule": with_rule,
    "surrogate": lambda: enliven(
        iso.create_model("ms_resnet8", T=T, width=8, num_classes=5, neuron={"surrogate": Step()})
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_training_runs_what_is_written(name):
    model, images = OWN[name](), torch.randn(4, 3, 16, 16)
    found = []
    for backend in ("auto", "reference"):
        with use_backend(backend):
            logits = model(images)
            found.append((logits, torch.autograd.grad(logits.square().sum(), list(model.parameters()))))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    for ours, true in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, true, rtol=1e-2, atol=1e-3 * (1 + true.abs().max().item()))


@pytest.mark.parametrize("name", OWN)
def test_a_compiled_network_runs_what_is_written(name):
    model, images = OWN[name]().double().eval(), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    expected = model(images, per_step=True)
    torch.testing.assert_close(model.compile_for_inference()(images, per_step=True), expected)
    single = model.float()
    with torch.no_grad():
        torch.testing.assert_close(
            single.compile_for_inference()(images.float(), per_step=True), single(images.float(), per_step=True),
            rtol=1e-3, atol=1e-3,
        )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in OWN if name != "surrogate"])
def test_what_is_written_makes_a_difference(name):
    model, images = OWN[name]().eval(), torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        own = model(images)
        for module in model.modules():
            if type(module).__module__ == __name__:
                module.__class__ = type(module).__mro__[1]
            if isinstance(module, LIF):
                module.rule = FireRule(**vars(module.rule))
        assert (model(images) - own).abs().max() > 1e-2


@pytest.mark.parametrize("kind", [BatchNorm, Conv2d, LIF])
def test_a_hook_that_changes_what_a_layer_puts_out_changes_it_when_compiled(kind):
    model, images = with_class(kind, kind).double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    plain = model(images)
    for module in model.modules():
        if type(module) is kind:
            module.register_forward_hook(lambda _, __, y: (1 - y[0], y[1]) if isinstance(y, tuple) else y / 2)
    hooked = model(images)
    assert (plain - hooked).abs().max() > 1e-3
    torch.testing.assert_close(model.compile_for_inference()(images), hooked)


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrised(layer):
    parametrize.register_parametrization(layer, "weight", Half())


def pruned(layer):
    prune.custom_from_mask(layer, "weight", (torch.rand_like(layer.weight) > 0.3).to(layer.weight))


@pytest.mark.parametrize("kinds", [nn.Conv2d, nn.Conv2d | nn.Linear | BatchNorm], ids=["convolutions", "all"])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("change", [parametrised, pruned, nn.utils.weight_norm])
def test_weights_that_are_computed_are_compiled_as_they_are_now(change, kinds):
    model, images = with_class(Conv2d, Conv2d), torch.randn(2, 3, 16, 16)
    for layer in list(model.modules()):
        if isinstance(layer, kinds) and (change is not nn.utils.weight_norm or layer.weight.dim() > 1):
            change(layer)
    model(images).sum().backward()  # computed weights now have a graph
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)  # and are not yet those of these parameters
    model.double().eval()
    images = images.double()
    compiled = model.compile_for_inference()
    expected = model(images).detach()
    torch.testing.assert_close(compiled(images), expected)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    torch.testing.assert_close(compiled(images), expected)
    single = model.float().compile_for_inference("int8")(images.float())
    assert (single - model(images.float())).abs().mean() < 0.5 * single.std()


def test_a_norm_and_a_neuron_of_their_own_do_not_fold():
    norm = enliven(BatchNorm(4))
    with pytest.raises(ConfigError, match="not into OwnNeuron"):
        FoldedNeuron(norm, OwnNeuron(decay=0.5))
    norm.__class__ = OwnNorm
    with pytest.raises(ConfigError, match="a OwnNorm may compute something else"):
        FoldedNeuron(norm, LIF(decay=0.5))


@pytest.mark.compiled
def test_a_rule_of_its_own_is_refused_by_the_library():
    neuron = LIF(decay=0.5)
    neuron.rule = OwnRule()
    assert cpu.refusal(torch.randn(2, 2, 3), None, neuron.rule) == "it does not know the rule OwnRule"


def test_gates_of_a_neuron_of_its_own_are_not_made_up():
    model = with_class(LIF, OwnNeuron).eval()
    with iso.watch(model) as seen, torch.no_grad():
        model(torch.randn(2, 3, 16, 16))
    assert all(neuron.open is None for neuron in seen.flow().neurons)
