"""Domains: whether each layer with weights reads spikes, counts of them, or real numbers."""

from torch import nn

from isospike.graph.network import Network
from isospike.graph.program import Call, Conv
from isospike.graph.recorder import record_network
from isospike.layers import SlotConv
from isospike.residual import BINARY, Domain

Promises = dict[nn.Module, Domain]


def promised_domains(network: Network) -> Promises:
    """Derive from the program of ``network`` what each of its convolutions and linear layers reads.

    Raises:
        ConfigError: the network cannot be written down as a program.
    """
    promises: Promises = {}
    for op in record_network(network).operations:
        if isinstance(op, Conv | Call):
            if isinstance(op.module, SlotConv):
                promises[op.module.conv] = BINARY
            elif isinstance(op.module, nn.Conv2d | nn.Linear):
                promises[op.module] = op.x.domain
    return promises
