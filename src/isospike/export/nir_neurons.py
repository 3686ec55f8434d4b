"""Neurons as nodes of NIR, whose equations are those of continuous time.

NIR says ``tau dv/dt = v_leak - v + R I`` for LIF and ``dv/dt = R I`` for IF, a spike where ``v > v_threshold``, and
``v = v_reset`` after it. Its readers step LIF by Euler, ``v += dt / tau * (v_leak - v + R I)``, and an IF neuron adds
``R I`` at every step. So ``h = decay * v + gain * x`` becomes ``tau = dt / (1 - decay)``, with potentials in units of
``gain / (1 - decay)``, in which R is 1: some readers look at no other R.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isospike.export.outgoing import Shape
from isospike.graph import module_to_json
from isospike.layers import DelayedReadout, SpikingReadout
from isospike.neurons import IF, ILIF, LIF, Neuron, SpikingNeuron, is_recurrence
from isospike.ops import IntegerRule, SignedRule
from isospike.optional import import_optional

DT = 1e-4  # seconds of a step: snnTorch knows no other
KEY = "isospike"  # in the metadata of graphs and nodes


@dataclass(frozen=True)
class Population:
    """Neurons as nodes that read the same current, and whose spikes are added up.

    Args:
        nodes: One, or one for every level; none: what they read is what they put out.
        losses: What the neurons do and the nodes do not, as ends of a sentence.
    """

    nodes: list[Any] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)


def population(neuron: Neuron, shape: Shape) -> Population | None:
    """Nodes for neurons that read maps ``[C, H, W]``; None where NIR has nothing that is near."""
    if isinstance(neuron, SpikingReadout):
        return Population(losses=["puts out spikes and what a softmax of the rest has grown by, and not its currents"])
    if isinstance(neuron, DelayedReadout):
        return Population(losses=["leaves the logits before its delay out of their mean"] if neuron.delay else [])
    if not is_recurrence(neuron) or isinstance(neuron.rule, SignedRule):
        return None
    rule = neuron.rule
    if isinstance(rule, IntegerRule):
        losses = ["starts at half a threshold, and takes from its potential what it puts out"]
        losses += [f"puts out up to {rule.levels} at a step, and not 1"] if rule.levels > 1 else []
        return Population([_node(neuron, rule.v_threshold / 2, 0.0, shape, lossy=True)], losses)
    lossy = rule.reset == "subtract"
    nodes = [
        _node(neuron, threshold, rule.v_reset, shape, strict=rule.strict, lossy=lossy and not rule.higher)
        for threshold in (rule.v_threshold, *rule.higher)
    ]
    return Population(nodes, ["takes its threshold from the potential, and does not put it to 0"] if lossy else [])


def _node(
    neuron: SpikingNeuron, threshold: float, v_reset: float, shape: Shape, *, strict: bool = False, lossy: bool = False
) -> Any:
    """An IF or LIF node; what is lost of a lossy one stands in its metadata, for ``from_nir``."""
    nir = import_optional("nir", extra="nir", purpose="a network as a NIR graph")
    decay, gain = map(float, neuron.coefficients())
    leaks = decay < 1
    unit = (1 - decay) / gain if leaks else 1.0
    least = np.float32(threshold * unit)
    least = least if strict else np.nextafter(least, np.float32(-np.inf))  # NIR fires above a threshold, not at it
    parameters = {"v_threshold": float(least), "v_reset": v_reset * unit, "r": 1.0 if leaks else gain}
    if leaks:
        parameters |= {"tau": DT / (1 - decay), "v_leak": 0.0}
    ours = _registered(neuron, decay, gain) if lossy else None
    metadata = {} if ours is None else {KEY: json.dumps(module_to_json(ours))}
    arrays = {name: np.full(shape, value) for name, value in parameters.items()}
    return (nir.LIF if leaks else nir.IF)(**arrays, metadata=metadata)


def _registered(neuron: SpikingNeuron, decay: float, gain: float) -> SpikingNeuron | None:
    """Find a neuron of the registry, without weights, that does the same with the same current."""
    rule = neuron.rule
    if isinstance(rule, IntegerRule):
        return ILIF(decay=decay, levels=rule.levels, v_threshold=rule.v_threshold) if gain == 1 else None
    options = {name: getattr(rule, name) for name in ("v_threshold", "reset", "v_reset", "strict")}
    if gain == 1:
        return IF(**options) if decay == 1 else LIF(decay=decay, **options)
    return LIF(tau=1 / gain, **options) if abs(1 - decay - gain) < 1e-6 else None
