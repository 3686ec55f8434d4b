"""What the contestants of a bench share: a network as plain data, its weights by name, and its input."""

from typing import Any

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.layers import BatchNorm, Chain
from isospike.models import SpikingResNet
from isospike.neurons import ReLU, SpikingNeuron
from isospike.ops import FireRule
from isospike.residual import Stage
from isospike.surrogates import SURROGATES

Description = dict[str, Any]


def describe_neuron(neuron: SpikingNeuron) -> Description:
    """Describe leak, threshold, reset and surrogate as numbers and words.

    Raises:
        ConfigError: several levels, integers, or a learned leak: no peer has these.
    """
    decay, gain = neuron.coefficients()
    rule = neuron.rule
    if not isinstance(rule, FireRule) or rule.higher or isinstance(decay, Tensor) or isinstance(gain, Tensor):
        raise ConfigError(f"no peer computes {type(neuron).__name__} neurons; bench this model without --peer")
    surrogate = rule.surrogate
    name = next(name for name in SURROGATES if type(surrogate) is SURROGATES[name])
    (parameter,) = vars(surrogate).values()
    fields = {"v_threshold": rule.v_threshold, "reset": rule.reset, "v_reset": rule.v_reset}
    leak = {"decay": decay, "gain": gain, "detach_reset": rule.detach_reset}
    return {**fields, **leak, "surrogate": name, "surrogate_parameter": parameter}


def describe(model: SpikingResNet) -> Description:
    """Describe a model as chains of convolutions, norms, pools and neurons, by the names of our modules.

    Raises:
        ConfigError: the model holds something else, such as links over stages or norms per time step.
    """
    names = {module: name for name, module in model.named_modules()}

    def chain(layers: Chain) -> list[Description]:
        return [{"name": names[layer], **_layer(layer)} for layer in layers.children()]

    units: list[Description] = []
    for stage in model.stages:
        assert isinstance(stage, Stage)
        if stage.links is not None or stage.sum is not None or stage.widening is not None or stage.pool is not None:
            raise ConfigError("peers know stages of plain units; bench this model without --peer")
        for unit in stage:
            parts = {part: chain(getattr(unit, part)) for part in ("branch", "skip", "after")}
            if any(unit.shared.children()):
                raise ConfigError("peers know no layers that branch and skip share; bench this model without --peer")
            units.append({**parts, "join": unit.join and unit.join.name})
    classifier = model.head.fc
    if model.head.spike is not None or model.head.dropout.share or not isinstance(classifier, nn.Linear):
        raise ConfigError("peers know a linear classifier without dropout; bench this model without --peer")
    chains = {part: chain(getattr(model, part)) for part in ("stem", "opening", "closing")}
    return {**chains, "units": units, "classifier": {"name": names[classifier], **_layer(classifier)}}


def _layer(layer: nn.Module) -> Description:
    if isinstance(layer, nn.Conv2d):
        sizes = {"kernel": layer.kernel_size[0], "stride": layer.stride[0], "padding": layer.padding[0]}
        bias = layer.bias is not None
        return {"type": "conv", "in": layer.in_channels, "out": layer.out_channels, **sizes, "bias": bias}
    if isinstance(layer, BatchNorm):
        if layer.root_eps:
            raise ConfigError("peers have no norm with root_eps; bench this model with norm_eps=1e-5, norm_root_eps=0")
        return {"type": "norm", "channels": layer.num_features, "eps": layer.eps}
    if isinstance(layer, SpikingNeuron):
        return {"type": "spike", "neuron": describe_neuron(layer)}
    if isinstance(layer, ReLU):
        return {"type": "relu"}
    if isinstance(layer, nn.AvgPool2d):
        return {"type": "pool", "kernel": layer.kernel_size}
    if isinstance(layer, nn.MaxPool2d):
        return {"type": "max_pool", "kernel": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    if isinstance(layer, nn.Linear):
        return {"type": "linear", "in": layer.in_features, "out": layer.out_features, "bias": layer.bias is not None}
    raise ConfigError(f"peers have no {type(layer).__name__}; bench this model without --peer")


def network_tensors(model: SpikingResNet, batch: int, size: int) -> dict[str, Tensor]:
    """Return images ``x``, labels ``y``, and weights under which all layers fire: every branch weighs something.

    Biases are low enough for networks of membranes to fire about as one fresh from its initialisation, 18 %.
    Running statistics become those of the images, so that inference fires as training does. A norm's weight is given
    with its constant factor in it, as libraries without that factor have it.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, model.in_channels, size, size, generator=generator)
    y = torch.randint(0, model.head.fc.out_features, (batch,), generator=generator)  # type: ignore[arg-type]
    norms = [(name, m) for name, m in model.named_modules() if isinstance(m, BatchNorm)]
    with torch.no_grad():
        for _, norm in norms:
            norm.weight.uniform_(0.5, 1.0, generator=generator)
            norm.bias.uniform_(-0.5, 0.1, generator=generator)
            norm.momentum, usual = 1.0, norm.momentum
        model.train()(x)
        for _, norm in norms:
            norm.momentum = usual
    tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for name, norm in norms:
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"].double() * norm.scale
    return {**tensors, "x": x, "y": y}


def firing_share(model: SpikingResNet, x: Tensor) -> float:
    """Return the share of all neurons and steps that fires for images ``x``; running statistics move."""
    fired: list[int] = []
    neurons: list[int] = []

    def count(_: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        fired.append(int(output[0].count_nonzero()))
        neurons.append(output[0].numel())

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, SpikingNeuron)]
    with torch.no_grad():
        model.train()(x)
    for hook in hooks:
        hook.remove()
    return sum(fired) / sum(neurons)


def fire_tensors(T: int, batch: int, channels: int, size: int) -> dict[str, Tensor]:
    """Make currents and gradients ``[T, B, C, H, W]`` on which all neurons must agree to the last bit.

    Currents are odd multiples of 1/128, gradients multiples of 1/64: with a decay and a threshold of 1/2 all products
    and sums are exact in float32, and no potential meets the threshold or an edge of the rectangle, so that it does not
    matter which of two neurons fires at the threshold and which above it.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (T, batch, channels, size, size)
    x = torch.randint(-128, 128, shape, generator=generator).mul_(2).add_(1) / 128
    g = torch.randint(-64, 65, shape, generator=generator) / 64
    return {"x": x, "g": g}


def event_tensors(count: int, size: int) -> dict[str, Tensor]:
    """Make ``t x y p`` of so many events, evenly over 1.3 seconds and a square sensor."""
    generator = torch.Generator().manual_seed(0)
    sides = {"t": 1_300_000, "x": size, "y": size, "p": 2}
    found = {name: torch.randint(side, (count,), generator=generator) for name, side in sides.items()}
    return {**found, "t": found["t"].sort().values}
