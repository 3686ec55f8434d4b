"""A network as a program of PyTorch's own operations, traced or compiled ahead of time; it runs without isospike."""

import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from isospike.errors import ConfigError, RunFailed
from isospike.export.outgoing import (
    BATCH,
    Size,
    checked_form,
    has_memory,
    neurons_of,
    outgoing_copy,
    rest_of,
)
from isospike.inference.numbers import numbers_of
from isospike.layers import PerStepNorm, Steps
from isospike.models.network import SpikingNetwork
from isospike.ops import use_backend
from isospike.writing import atomic_write

FORMS = ("static", "clip", "step")
EXAMPLES = 2  # in the batch of the example: the compiler takes a dimension of 1 for one that is always 1
LARGEST_BATCH = 2**16

State = dict[str, Tensor]


def export_program(model: nn.Module, form: str = "static", *, size: Size | None = None) -> ExportedProgram:
    """A trained network as a program of ATen operations, for ``torch.export.save``, AOTInductor and others.

    Norms stay as they are, so it computes what the model does in eval, but for sums that convolutions of another batch
    round otherwise. Layers and neurons of one's own are traced as well. The batch is open, T and the size of images are
    fixed. The forms:

    - "static": ``x [B, C, H, W]`` to ``(logits [B, K], per_step [T, B, K])``, all T steps at once.
    - "clip": the same of ``x [T, B, C, H, W]``, an input for every step.
    - "step": ``(x [B, C, H, W], state)`` to ``(logits [B, K], state)``, as ``model.step``. The state before the first
      step is in ``program.example_inputs``, for a batch of 2.

    Args:
        model: A spiking network of this package, trained or converted, or an ANN twin.
        form: One of these.
        size: Height and width of the images. None: what the model says of its inputs.

    Raises:
        UnknownName: there is no such form.
        ConfigError: it is no network of this package, or nobody said how large its images are.
    """
    checked_form("an exported program", form, FORMS)
    net, pixels = outgoing_copy(model, size)
    x = next(net.parameters()).new_zeros(EXAMPLES, net.in_channels, *pixels)
    batch = Dim("B", min=1, max=LARGEST_BATCH)
    if form == "step":
        module: nn.Module = OneStep(net)
        state, dims = _at_rest(net, x)
        inputs: tuple[Any, ...] = x, state
        shapes: tuple[Any, ...] = {0: batch}, {name: {} if dim is None else {dim: batch} for name, dim in dims.items()}
    else:
        clip = form == "clip"
        module = AllSteps(net, clip=clip)
        inputs = (x.expand(net.T, *x.shape).contiguous() if clip else x,)
        shapes = ({int(clip): batch},)
    with use_backend("reference"), torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=shapes)


def save_program(model: nn.Module, path: Path | str, form: str = "static", *, size: Size | None = None) -> None:
    """``export_program`` into a file for ``torch.export.load``, whole or not at all; arguments as there."""
    program = export_program(model, form, size=size)
    with atomic_write(Path(path)) as part, part.open("wb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")  # said of weights that lie channels-last
        torch.export.save(program, file)


def save_package(model: nn.Module, path: Path | str, form: str = "static", *, size: Size | None = None) -> None:
    """``export_program`` compiled by AOTInductor for processors like this one; arguments as there.

    ``torch._inductor.aoti_load_package`` loads the file, without isospike or a compiler; so do programs in C++.

    Raises:
        ConfigError: there is no C++ compiler.
        RunFailed: it fails, or the disk does not take the file.
    """
    _check_compiler()
    program = export_program(model, form, size=size)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # PyTorch's own
        try:
            made = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/network.pt2")
        except RuntimeError as error:
            raise RunFailed(f"AOTInductor cannot compile this network: {str(error).strip().splitlines()[0]}") from error
        with atomic_write(Path(path)) as part:
            shutil.copyfile(made, part)


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "AOTInductor needs a C++ compiler, and there is none: install g++, name one in CXX, or take format "
            "'torch', which needs none"
        ) from error


class AllSteps(nn.Module):
    """Logits of all steps, from rest.

    Args:
        net: In eval.
        clip: Whether every step has an input of its own.
    """

    def __init__(self, net: SpikingNetwork, *, clip: bool) -> None:
        super().__init__()
        self.net, self.clip = net, clip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over time ``[B, K]``, and every step ``[T, B, K]``."""
        steps = Steps(self.net.T)
        per_step = steps.unroll(self.net.run(x if self.clip else x.unsqueeze(0), steps))
        return per_step.mean(0), per_step


class OneStep(nn.Module):
    """Logits of one step, and the state after it.

    Args:
        net: In eval.
    """

    def __init__(self, net: SpikingNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run as ``SpikingNetwork.step`` does."""
        neurons = neurons_of(self.net)
        steps = OpenStep({neuron: state[name] for name, neuron in neurons.items()}, state.get("step"))
        logits = self.net.run(x.unsqueeze(0), steps)[0]
        after = {name: steps.potentials[neuron] for name, neuron in neurons.items()}
        return logits, after if steps.now is None else after | {"step": steps.now + 1}


class OpenStep(Steps):
    """One step of which nobody knows yet which it is.

    Args:
        potentials: Of all neurons.
        now: The step, counted from 0; None where no norm asks.
    """

    def __init__(self, potentials: dict[Any, Tensor], now: Tensor | None) -> None:
        super().__init__(1, potentials)
        self.potentials, self.now = potentials, now

    def through(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Norms look up the row of the step."""
        if self.now is None or not isinstance(layer, PerStepNorm):
            return super().through(layer, x)
        # Not rows[now]: PyTorch 2.9 asks for the number then, and there is none yet.
        now = self.now.reshape(1)
        scale, shift = (rows.index_select(0, now).view(-1, 1, 1) for rows in numbers_of(layer))
        return x * scale + shift


def _at_rest(net: SpikingNetwork, x: Tensor) -> tuple[State, dict[str, int | None]]:
    """Return the state before the first step, and which dimension of each potential is the batch."""
    _, after = net.step(x)
    neurons = neurons_of(net)
    rest = {name: torch.full_like(after[name], rest_of(neuron)) for name, neuron in neurons.items()}
    dims = {
        name: neuron.state_shape((BATCH,)).index(BATCH) if has_memory(neuron) else None
        for name, neuron in neurons.items()
    }
    if "step" not in after:
        return rest, dims
    return rest | {"step": torch.tensor(0)}, dims | {"step": None}
