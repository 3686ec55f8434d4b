"""A network as every format needs it: a frozen copy, its program with folded norms, and the shapes of all maps."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.graph import Between, Operation, Program, Value, record_network, rewrite, run_eager
from isospike.graph.rules import fold_into_convolutions
from isospike.inference.frozen import frozen
from isospike.layers import SpikingReadout, Steps
from isospike.models.network import SpikingNetwork
from isospike.neurons import QCFS, Neuron, ReLU
from isospike.registry import unknown_name
from isospike.residual import Join

Shape = tuple[int, ...]
Size = int | tuple[int, int]
BATCH = -1  # in a shape: it is open


@dataclass(frozen=True)
class Outgoing:
    """A network on its way out; it shares nothing with the model that it was made of.

    Args:
        model: In eval, without gradients, on the CPU.
        size: Height and width of its images.
        operations: Its program; what norms alone read of a convolution is part of that convolution.
        input: The images.
        result: The logits.
        shapes: Of every map at one step, without the batch.
        names: Of every module.
    """

    model: SpikingNetwork
    size: tuple[int, int]
    operations: Sequence[Operation]
    input: Value
    result: Value
    shapes: Mapping[Value, Shape]
    names: Mapping[nn.Module, str]

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.model.parameters()).dtype

    def name_of(self, op: Operation) -> str:
        """What to call an operation: the name of its layer, of a neuron or norm in it, or of what it reads."""
        parts = (op.neuron, op.x_affine) if isinstance(op, Between) else (op.module,)
        for part in parts:
            if isinstance(part, nn.Module):
                return self.names[part]
        before = (other for other in self.operations if other.out == op.x)
        return next(map(self.name_of, before), "input")


def outgoing(model: nn.Module, size: Size | None = None) -> Outgoing:
    """Make ``model`` ready to leave.

    Args:
        model: A spiking network of this package, trained or converted, or an ANN twin.
        size: Height and width of the images. None: what the model says of its inputs.

    Raises:
        ConfigError: it is no such network, or nobody said how large its images are.
        ShapeError: it does not take images of this size.
        Unrecordable: a module does something that no program says.
    """
    copy, pixels = outgoing_copy(model, size)
    program = record_network(copy)
    shapes = _shapes(program, copy, pixels)
    operations = rewrite(program.operations, program.results, (fold_into_convolutions,))
    names = {module: name for name, module in copy.named_modules(remove_duplicate=False)}
    return Outgoing(copy, pixels, operations, program.input, program.results[0], shapes, names)


def outgoing_copy(model: nn.Module, size: Size | None) -> tuple[SpikingNetwork, tuple[int, int]]:
    """A frozen copy of ``model`` on the CPU, and the size of its images; see ``outgoing``."""
    if not isinstance(model, SpikingNetwork):
        raise ConfigError(
            f"networks of this package can be exported, and this is a {type(model).__name__}: create_model, convert "
            "and from_pretrained make them"
        )
    if size is None and model.inputs is None:
        raise ConfigError("this model says nothing of the size of its images: give size=, as in size=32")
    pixels = model.inputs.size if size is None and model.inputs is not None else size
    height, width = (pixels, pixels) if isinstance(pixels, int) else pixels or (0, 0)
    copy = frozen(model).cpu()
    weight = next(copy.parameters())
    copy.as_sequence(weight.new_zeros(1, copy.in_channels, height, width), None)  # refuses what it does not take
    return copy, (height, width)


def checked_form(format: str, form: str, forms: Sequence[str]) -> None:
    """Refuse a form that a format does not have.

    Raises:
        UnknownName: names those that it has.
    """
    if form not in forms:
        raise unknown_name(f"form of {format}", form, forms)


def check_operators(used: Iterable[str], known: Collection[str] | None) -> None:
    """Refuse a file that a device cannot run.

    Args:
        used: The operator of every node of the file.
        known: Operators that the device has. None: nobody said.

    Raises:
        ConfigError: names those that it lacks, and how many nodes are such.
    """
    if known is None:
        return
    if isinstance(known, str) or not any(known):
        raise ConfigError("give the operators that the device has, as in operators=['Add', 'Conv']")
    counts = Counter(used)
    lacking = [f"{name} ({count}x)" for name, count in sorted(counts.items()) if name not in known]
    if lacking:
        needed = ", ".join(sorted(counts))
        raise ConfigError(f"the device lacks operators of this network: {', '.join(lacking)}; it must have {needed}")


def neurons_of(net: nn.Module) -> dict[str, Neuron]:
    """Return all neurons by their names, as ``SpikingNetwork.step`` calls their potentials."""
    return {name: module for name, module in net.named_modules() if isinstance(module, Neuron)}


def has_memory(neuron: Neuron) -> bool:
    """Return whether what it puts out depends on steps before."""
    return not isinstance(neuron, ReLU | QCFS)


def rest_of(neuron: Neuron) -> float:
    """Return the potential before the first step."""
    return neuron.start if isinstance(neuron, SpikingReadout) else 0.0


def refuse_joins(net: Outgoing) -> None:
    """Refuse joins of one's own, of which nobody knows what they compute.

    Raises:
        ConfigError: names the join.
    """
    for op in net.operations:
        if isinstance(op, Between) and isinstance(op.join, Join):
            raise ConfigError(
                f"join '{op.join.name}' is not made of +, * and 1 - x, so no format can say it: export_program traces "
                "the function itself"
            )


@torch.no_grad()
def _shapes(program: Program, model: SpikingNetwork, size: tuple[int, int]) -> dict[Value, Shape]:
    """Find the shapes by one step of a black image."""
    maps: dict[Value, Tensor] = {}
    maps[program.input] = next(model.parameters()).new_zeros(1, 1, model.in_channels, *size)
    for op in program.operations:
        run_eager(op, maps, Steps(1))
    return {value: tuple(x.shape[2:]) for value, x in maps.items()}
