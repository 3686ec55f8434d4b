"""What every convolution of a model reads, as its row promises it: spikes, counts of them, or real numbers."""

from copy import deepcopy

from torch import nn

from isospike.layers import Chain, SlotConv
from isospike.models.resnet import SpikingResNet
from isospike.neurons import Neuron
from isospike.residual import BINARY, REAL, Domain, Links, ResidualUnit, Stage
from isospike.residual.join import Join

Promises = dict[nn.Module, Domain]


def promised_domains(model: SpikingResNet) -> Promises:
    """What each convolution and linear layer of ``model`` reads, derived from its row and its body alone."""
    promises: Promises = {}
    x = _chain(model.stem, REAL, promises)
    outputs = [_chain(model.opening, x, promises)]
    for stage in model.stages:
        outputs.append(_stage(stage, outputs, promises))  # type: ignore[arg-type]
    _chain(model.closing, outputs[-1], promises)
    if model.head.hidden is not None:
        promises[model.head.hidden] = REAL
    if isinstance(model.head.fc, nn.Linear):
        promises[model.head.fc] = REAL if model.head.spike is None else Domain(model.head.spike.levels)
    return promises


def _chain(chain: Chain, x: Domain, promises: Promises) -> Domain:
    for layer in chain.children():
        x = _layer(layer, x, promises)
    return x


def _layer(layer: nn.Module, x: Domain, promises: Promises) -> Domain:
    if isinstance(layer, Neuron):
        return Domain(layer.levels)
    if isinstance(layer, nn.MaxPool2d):
        return x
    if isinstance(layer, SlotConv):
        promises[layer.conv] = BINARY
    elif isinstance(layer, nn.Conv2d):
        promises[layer] = x
    return REAL


def _unit(unit: ResidualUnit, x: Domain, promises: Promises) -> tuple[Domain, Domain]:
    """Branch and skip."""
    shared = _chain(unit.shared, x, promises)
    return _chain(unit.branch, shared, promises), _chain(unit.skip, shared, promises)


def _join(join: Join | None, branch: Domain, skip: Domain) -> Domain:
    if join is None:
        return branch
    return branch + skip if join.linear else skip


def _stage(stage: Stage, outputs: list[Domain], promises: Promises) -> Domain:
    x = outputs[-1] if stage.widening is None else _chain(stage.widening, outputs[-1], promises)
    for index, unit in enumerate(stage):
        branch, skip = _unit(unit, x, promises)
        x = _chain(unit.after, _join(unit.join, branch, skip), promises)
        if stage.sum is not None:
            x = REAL  # weights and factors are no integers
        if index == 0 and stage.links is not None and not stage.links.reach.at_end:
            x = x + _links(stage.links, outputs, promises)
    if stage.links is not None and stage.links.reach.at_end:
        x = x + _links(stage.links, [*outputs, x], promises)
    return x


def _links(links: Links, outputs: list[Domain], promises: Promises) -> Domain:
    terms = [_chain(chain, outputs[source], promises) for source, chain in links.chains()]
    return REAL if links.sum.combine.changes_sum else sum(terms[1:], terms[0])


def spike_driven(model: SpikingResNet) -> SpikingResNet:
    """A copy of ``model`` in which every convolution that reads counts of spikes reads them as binary slots.

    Up to the rounding of sums it gives what ``model`` gives, and its convolutions but for those that its row feeds with
    real numbers (the stem, some projections) see spikes alone. Weights are copied; ``state_dict`` has other names.
    """
    expanded = deepcopy(model)
    promises = promised_domains(expanded)
    for chain in [module for module in expanded.modules() if isinstance(module, Chain)]:
        for name, layer in list(chain.named_children()):
            levels = promises.get(layer, REAL).largest
            if isinstance(layer, nn.Conv2d) and levels is not None and levels > 1:
                setattr(chain, name, SlotConv(layer, levels))
    return expanded
