"""A whole training step as one CUDA graph: of a thin deep network, launching the kernels takes longer than they do."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError, ShapeError

WARM_UP = 3  # steps in which libraries choose their algorithms and compilers compile


class CapturedStep:
    """``found = captured(*inputs)`` replays a training step, forward, backward and optimiser, as it was captured.

    Capturing runs a few steps and takes them back: weights, statistics and the optimiser's state are then what they
    were before. Everything that changes between steps must be a tensor: the inputs, which are copied in, and the
    learning rates, which ``group["lr"].fill_(value)`` changes.

    Args:
        model: On a CUDA device.
        optimizer: Of its parameters; "fused" or "capturable", its learning rates tensors on the device.
        step: ``step(*inputs)``: one step on a batch; gives back a tensor. It must not wait for the device
            (``.item()``) nor branch on values.
        inputs: A batch; all others have its shapes and dtypes.

    Raises:
        ConfigError: not on a CUDA device, or an optimiser that cannot be captured.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: Callable[..., Tensor],
        inputs: tuple[Tensor, ...],
    ) -> None:
        _check_place([*model.parameters(), *inputs])
        _check_optimizer(optimizer)
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), as_before(model, optimizer):
            for _ in range(WARM_UP):
                step(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        optimizer.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.found = step(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return what the step gives back, a tensor on the device that the next call writes over.

        Raises:
            ShapeError: inputs unlike those of the capture.
        """
        check_like(inputs, self.inputs)
        for tensor, given in zip(self.inputs, inputs, strict=True):
            tensor.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.found


@contextmanager
def as_before(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Take back, in place, what the block does to the model's tensors and the optimiser's state.

    State that the block creates stays, at zero: where SGD (without dampening) and Adam start.
    """
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    state = {tensor: tensor.clone() for tensor in _state(optimizer)}
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        for tensor in _state(optimizer):
            if tensor in state:
                tensor.copy_(state[tensor])
            else:
                tensor.zero_()


def check_like(inputs: tuple[Tensor, ...], captured: tuple[Tensor, ...]) -> None:
    """Refuse inputs whose shapes or dtypes are not those of the capture."""
    given, expected = ([f"{list(t.shape)} {t.dtype}" for t in tensors] for tensors in (inputs, captured))
    if given != expected:
        raise ShapeError(f"the step was captured for {', '.join(expected)}, got {', '.join(given)}")


def _state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def _check_place(tensors: Iterable[Tensor]) -> None:
    places = sorted({tensor.device.type for tensor in tensors})
    if places != ["cuda"]:
        raise ConfigError(f"a step is captured on a CUDA device, and model and inputs are on {', '.join(places)}")


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        if not (group.get("fused") or group.get("capturable")):
            raise ConfigError("a captured step needs an optimiser built with fused=True or capturable=True")
        if not isinstance(group["lr"], Tensor) or group["lr"].device != group["params"][0].device:
            raise ConfigError(f"the learning rate of a captured step is a tensor on the device, got {group['lr']}")
        if group.get("dampening"):
            raise ConfigError("a captured step starts momentum at zero, which dampening would make another start")
