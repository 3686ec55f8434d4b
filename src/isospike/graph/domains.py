"""Domains: whether each layer with weights reads spikes, counts of them, or real numbers."""

from torch import nn

from isospike.graph.network import Network
from isospike.graph.program import Call, Conv
from isospike.graph.recorder import Outline, record_network
from isospike.layers import SlotConv
from isospike.residual import BINARY, REAL, Domain

Promises = dict[nn.Module, Domain]


def promised_domains(network: Network) -> Promises:
    """Derive from the program of ``network`` what each of its convolutions and linear layers reads.

    Of a layer inside a module whose forward is not known, such as a unit of one's own, nothing is promised but real
    numbers. Hooks change nothing.

    Raises:
        ConfigError: the network cannot be written down as a program.
    """
    promises: Promises = {}
    for op in record_network(network, Outline).operations:
        if isinstance(op, Conv | Call):
            promises |= _promises_of(op)
    return promises


def _promises_of(op: Conv | Call) -> Promises:
    if isinstance(op.module, SlotConv):
        return {op.module.conv: BINARY}
    if isinstance(op.module, nn.Conv2d | nn.Linear):
        return {op.module: op.x.domain}
    return {layer: REAL for layer in op.module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
