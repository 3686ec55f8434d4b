"""A NIR file in the readers of other libraries, step by step: in an environment of its own (`nir_readers.txt`).

    python nir_readers.py net.nir images.npz spikes.npz

Of the images ``x [B, C, H, W]`` and steps ``T`` in the first archive it writes, under ``reader/``, what every neuron
node puts out, ``[T, B, ...]``, and the logits ``[T, B, K]`` as "output"; or as "refused" what went wrong.
"""

import logging
import sys
import warnings

import nir
import nirtorch
import numpy as np
import torch

DT = 1e-4


def snntorch(graph, batch):
    from snntorch.import_nir import import_from_nir

    return import_from_nir(graph)


def norse(graph, batch):
    from norse.torch.utils.import_nir import from_nir

    return from_nir(graph, dt=DT)


def sinabs(graph, batch):
    from sinabs.nir import from_nir

    return from_nir(graph, batch_size=batch)


def norse_in_order(graph, batch):
    """Its nodes in the order of the edges: ``from_nir`` has joins computed before all that they add up is there."""
    from norse.torch.utils.import_nir import _import_norse_module

    return nirtorch.nir_to_torch(graph, dict.fromkeys(KINDS, lambda node: _import_norse_module(node, dt=DT)))


def sinabs_in_order(graph, batch):
    """Likewise."""
    from sinabs.nir import _import_sinabs_module

    return nirtorch.nir_to_torch(graph, dict.fromkeys(KINDS, lambda node: _import_sinabs_module(node, batch, None)))


KINDS = (nir.Conv2d, nir.SumPool2d, nir.IF, nir.LIF)
READERS = {
    "snntorch": snntorch,
    "norse": norse,
    "norse, in order": norse_in_order,
    "sinabs": sinabs,
    "sinabs, in order": sinabs_in_order,
}


def run(reader, path, x, T):
    graph = nir.read(path)
    neurons = {name.replace(".", "_") for name, node in graph.nodes.items() if isinstance(node, nir.IF | nir.LIF)}
    net = READERS[reader](graph, len(x))
    seen = {name: [] for name in [*neurons, "output"]}
    for name, module in net.named_modules():
        if name in neurons:
            module.register_forward_hook(
                lambda _, __, out, name=name: seen[name].append(out[0] if isinstance(out, tuple) else out)
            )
    state = None
    for _ in range(T):
        out, state = net(torch.from_numpy(x)) if state is None else net(torch.from_numpy(x), state)
        seen["output"].append(out[0] if isinstance(out, tuple) else out)
    return {name: torch.stack([s.detach().float() for s in steps]).numpy() for name, steps in seen.items()}


def main():
    path, given, written = sys.argv[1:]
    archive = np.load(given)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    found = {}
    for reader in READERS:
        try:
            with torch.no_grad():
                seen = run(reader, path, archive["x"], int(archive["T"]))
        except Exception as error:  # noqa: BLE001  whatever it is, it is what the reader says
            seen = {"refused": np.array(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")}
        found |= {f"{reader}/{name}": array for name, array in seen.items()}
    np.savez(written, **found)


if __name__ == "__main__":
    main()
