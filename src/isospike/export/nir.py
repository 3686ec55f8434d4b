"""``export_nir``: a network as a graph of NIR."""

import json
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from isospike.errors import ConfigError
from isospike.export.nir_neurons import DT, KEY
from isospike.export.nir_program import Writer
from isospike.export.outgoing import Size, check_operators, outgoing
from isospike.writing import atomic_write


def export_nir(
    model: nn.Module,
    path: Path | str,
    *,
    lossy: bool = False,
    operators: Collection[str] | None = None,
    size: Size | None = None,
) -> list[str]:
    """Write a trained network as NIR, the exchange format of simulators and neuromorphic chips.

    Nodes are Conv2d, SumPool2d, Threshold, IF, LIF, Input and Output. Norms are folded into convolutions. Joins and
    links are edges into one node, which NIR adds up; a sum that several nodes read is a node of its own, a convolution
    with the identity. The metadata ``isospike`` of the graph say T, the step of time, what images must be, and whether
    the graph is exact or what differs.

    Args:
        model: A spiking network of this package, trained or converted, in float32.
        path: The file, HDF5.
        lossy: Where NIR cannot say what the model does, write what is nearest. Otherwise that is refused.
        operators: Kinds of nodes that the device has, as "Conv2d". None: all of these.
        size: Height and width of the images. None: what the model says of its inputs.

    Returns:
        A sentence for everything that the file does otherwise; of an exact one there is none.

    Raises:
        ConfigError: NIR cannot say what a layer does; names it and the way out. Or the device lacks a kind of node.
        MissingExtra: nir is not installed.
        RunFailed: the disk does not take it.

    Source: Pedersen et al. 2024 (NIR), arXiv:2311.14641.
    """
    net = outgoing(model, size)
    if net.dtype != torch.float32:
        raise ConfigError(f"NIR files are written in float32, and this model is {net.dtype}: call .float()")
    writer = Writer(net, lossy)
    writer.write()
    check_operators((type(node).__name__ for node in writer.graph.nodes.values()), operators)
    inputs = None if net.model.inputs is None else net.model.inputs.as_dict()
    facts = {"exact": not writer.losses, "differs": writer.losses, "T": net.model.T, "dt": DT, "inputs": inputs}
    nir = writer.graph.nir
    graph = nir.NIRGraph(writer.graph.nodes, writer.graph.edges, metadata={KEY: json.dumps(facts)})
    with atomic_write(Path(path)) as part:
        nir.write(str(part), graph)
    return writer.losses
