"""What every spiking network does with time: all steps at once in training, one by one in eval, or streamed."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from isospike.errors import ConfigError, ShapeError
from isospike.fused_training import TrainingPass
from isospike.graph import Kept, Network, Program, Unrecordable, is_untouched, record
from isospike.inference import CompiledNet, EvalPass, Precision, Ready, Refusal
from isospike.inputs import Inputs
from isospike.layers import MEMORY, Steps
from isospike.neurons import Neuron
from isospike.ops.backend import takes
from isospike.ops.cpu.refusals import refused_dtype, refused_place

Pass = TypeVar("Pass", EvalPass, TrainingPass)
FromCurrent = Callable[[Any, Steps], list[Tensor]]  # from what encode gives to what is asked for

AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)  # what torch.autocast casts


class SpikingNetwork(Network):
    """Maps images to logits through time; its neurons start from rest.

    Every forward starts from rest, and nothing of it stays in the module. In training all time steps go through a
    layer at once, as one batch. In eval a clip gives the same bits as the same steps streamed through ``step``: without
    gradients, where every sum has one order whatever the batch, as many steps go through together as fit the cache
    (``inference/eval_pass.py``); otherwise they go through the network one after the other. What is computed of a
    static image before the first neuron is computed once.

    Args:
        in_channels: Channels of the input.
        T: Time steps for static images; a call may ask for others.
    """

    def __init__(self, in_channels: int, T: int) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}  # arguments of create_model that build this model again
        self.inputs: Inputs | None = None  # what its images must be, where it was trained on some
        self._memory = "fast"
        self._passes, self._eval_passes = Kept(), Kept()
        self.in_channels, self.T = in_channels, checked_steps(T)

    @abstractmethod
    def encode(self, x: Tensor, steps: Steps) -> Any:
        """Compute what comes before time begins of inputs ``[T or 1, B, C, H, W]``; see ``Network.run``."""

    @abstractmethod
    def decode(self, current: Any, steps: Steps) -> Tensor:
        """Compute logits ``[T or 1, B, num_classes]`` of what ``encode`` gave."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Size of the logits; 0 of a backbone."""

    @property
    @abstractmethod
    def least_size(self) -> int:
        """Height and width of the smallest images that it takes."""

    def run(self, x: Tensor, steps: Steps) -> Tensor:
        """Compute logits ``[T or 1, B, num_classes]`` of inputs ``[T or 1, B, C, H, W]``; see ``Network``."""
        return self.decode(self.encode(x, steps), steps)

    @property
    @abstractmethod
    def knows_steps(self) -> bool:
        """Whether it has norms that know the time step, and so runs for its own T alone."""

    @property
    def memory(self) -> str:
        """The mode of memory in training, a name of ``MEMORY``: "fast", "lean" or "leanest".

        All give the same gradients. "fast" keeps the input of every convolution, spikes at one bit, and of every norm;
        "lean" and "leanest" are activation checkpointing: they keep the input of every unit, or of every few units, and
        run the units again in the backward pass. Under ``torch.compile`` the compiler decides what is kept.
        """
        return self._memory

    @memory.setter
    def memory(self, name: str) -> None:
        MEMORY[name]
        self._memory = name

    def forward(self, x: Tensor, *, T: int | None = None, per_step: bool = False) -> Tensor:
        """Compute logits, from rest.

        Args:
            x: Static images ``[B, C, H, W]``, or one input per step ``[T, B, C, H, W]``.
            T: Time steps for static images; the model's own where it is not given.
            per_step: Keep the logits of every step.

        Returns:
            ``[B, num_classes]``, the mean over time, or ``[T, B, num_classes]``.

        Raises:
            ShapeError: shape, dtype or device of the input do not fit; the text says what would.
        """
        (logits,) = self.unroll("logits", x, T, self._logits)
        return logits if per_step else logits.mean(0)

    def _logits(self, current: Any, steps: Steps) -> list[Tensor]:
        return [self.decode(current, steps)]

    @torch.no_grad()
    def step(self, x: Tensor, state: Mapping[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute one time step of a stream.

        Args:
            x: Input of this step ``[B, C, H, W]``.
            state: What the step before returned: the potential ``[B, ...]`` of every neuron by its name in the model
                (and the number of steps done, where norms know the step); None: from rest.

        Returns:
            ``(logits, state)``: ``[B, num_classes]`` of this step, equal bit for bit to the same step of
            ``forward(clip, per_step=True)`` without gradients, and the potentials after it.

        Raises:
            ConfigError: the model is in training mode, where batch statistics need all steps; or the state is that
                of another model.
        """
        if self.training:
            raise ConfigError("step() runs a trained model: call model.eval() first")
        _check_kind(x, next(self.parameters()))
        self._check_input(x, dims=4)
        neurons = {name: m for name, m in self.named_modules() if isinstance(m, Neuron)}
        counted = {"step"} if self.knows_steps else set()
        if state is not None and state.keys() != neurons.keys() | counted:
            odd = sorted(state.keys() ^ (neurons.keys() | counted))[0]
            raise ConfigError(f"this state is of another model: '{odd}' is a neuron of only one of the two")
        state = state or {}
        done = int(state["step"]) if counted and state else 0
        if counted and done == self.T:
            raise ShapeError(f"the norms of this model know {self.T} time steps, and the stream has had them all")
        steps = Steps(1, {neuron: state[name] for name, neuron in neurons.items() if name in state}, start=done)
        run, x = self._logits, x.unsqueeze(0)
        eval_pass = self._eval_pass("logits", x, run)
        ((logits,),) = run(self.encode(x, steps), steps) if eval_pass is None else eval_pass(x, steps)
        after = steps.v or {}
        potentials = {name: after[neuron] for name, neuron in neurons.items()}
        return logits, potentials | {name: torch.tensor(done + 1) for name in counted}

    def compile_for_inference(self, precision: Precision = "float32") -> CompiledNet:
        """Make a module that takes and gives the same tensors, several times faster; it does not train.

        Batch norms go into the weights, and all that stands between two convolutions into one pass over memory. Sums
        are rounded in another order than in eval: a potential within rounding of its threshold may fire there and not
        here, and logits differ by what such spikes are worth. A layer that has no faster form runs as it is.

        Args:
            precision: "float32" keeps the model's dtype. "int8" rounds the weights of convolutions that read spikes,
                or counts of at most 129, to 8 bits per output channel; their sums are exact, currents stay float32.

        Raises:
            ConfigError: no such precision, or "int8" for a model that is not float32 on the CPU.
        """
        return CompiledNet(self, precision)

    def unroll(self, name: str, x: Tensor, T: int | None, run: FromCurrent) -> list[Tensor]:
        """Call ``run``, which has this name, over all steps of ``x``."""
        x, T = self.as_sequence(x, T)
        if self.training:
            self._eval_passes.clear()  # they hold copies of the weights
            return self._train(name, x, Steps(T), run)
        eval_pass = self._eval_pass(name, x, run)
        return self._step_by_step(x, T, run) if eval_pass is None else eval_pass(x, Steps(T))

    def _eval_pass(self, name: str, x: Tensor, run: FromCurrent) -> Ready | None:
        """Return the program of ``run``, ready to run on ``x``; None where its modules must run themselves."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or not takes("cpu", x) or _is_watched():
            return None
        if refused_place(x) or refused_dtype(x.dtype):
            return None
        found = self._eval_passes.get(self, name, partial(self._make_eval_pass, run))
        if isinstance(found, Unrecordable):
            return None
        ready = found.ready(x)
        return None if isinstance(ready, Refusal) else ready

    def _make_eval_pass(self, run: FromCurrent) -> EvalPass | Unrecordable:
        if not is_untouched(*self.modules()):
            return Unrecordable("its hooks expect to see all layers at one step before any at the next")
        return self._made_of(EvalPass, run)

    def _step_by_step(self, x: Tensor, T: int, run: FromCurrent) -> list[Tensor]:
        """Run its own modules, one step after the other; what time does not change is encoded once."""
        steps = Steps(1, {})
        static = x.shape[0] != T
        current = self.encode(x, steps) if static else None
        outputs = []
        for steps.start in range(T):
            now = self.encode(x[steps.start : steps.start + 1], steps) if current is None else current
            outputs.append(run(now, steps))
        return [torch.cat(parts) for parts in zip(*outputs, strict=True)]

    def _train(self, name: str, x: Tensor, steps: Steps, run: FromCurrent) -> list[Tensor]:
        """Run the rewritten program; where there is none, or a compiler traces, run the modules themselves."""

        if torch.compiler.is_compiling():
            return run(self.encode(x, steps), steps)
        make = partial(self._made_of, partial(TrainingPass, memory=self.memory), run)
        fused = self._passes.get(self, (name, self.memory), make)
        if isinstance(fused, Unrecordable):
            if self.memory != "fast":
                raise ConfigError(
                    f"memory='{self.memory}' cuts the program of a network, so take memory='fast': {fused}"
                ) from fused
            return run(self.encode(x, steps), steps)
        return [steps.unroll(result) for result in fused(x, steps)]

    def _made_of(self, make: Callable[[Program], Pass], run: FromCurrent) -> Pass | Unrecordable:
        """Make a pass of the program of ``run``; why there is none is kept, as it is alike at every step."""
        try:
            return make(record(lambda x, steps: run(self.encode(x, steps), steps), self.in_channels))
        except Unrecordable as error:
            return error

    def as_sequence(self, x: Tensor, T: int | None) -> tuple[Tensor, int]:
        """Return ``x`` as ``[T or 1, B, C, H, W]``, and the number of steps."""
        _check_kind(x, next(self.parameters()))
        self._check_input(x, dims=4 if x.dim() == 4 else 5)
        if x.dim() == 4:
            x, T = x.unsqueeze(0), self.T if T is None else T
        elif T is not None and x.shape[0] != T:
            raise ShapeError(f"the input has {x.shape[0]} time steps, T={T} was asked for: leave T out")
        else:
            T = x.shape[0]
        if self.knows_steps and T != self.T:
            raise ShapeError(
                f"the norms of this model know {self.T} time steps, {T} were asked for: create it with T={T}, or with "
                "norms that all steps share"
            )
        return x, checked_steps(T)

    def _check_input(self, x: Tensor, dims: int) -> None:
        if x.dim() != dims or x.shape[-3] != self.in_channels:
            expected = f"[B, {self.in_channels}, H, W]" + (f" or [T, B, {self.in_channels}, H, W]" if dims == 5 else "")
            raise ShapeError(f"the model takes {expected}, got {list(x.shape)}")
        least = self.least_size
        if min(x.shape[-2:]) < least:
            raise ShapeError(
                f"images of {x.shape[-2]}x{x.shape[-1]} are smaller than the stride of this network, {least}: "
                f"take images of at least {least}x{least}, or a body or stem with less stride, as stem='cifar'"
            )


def _is_watched() -> bool:
    """Return whether PyTorch casts, traces or counts what is done, and so must do it itself."""
    tracing = torch._C._get_tracing_state() is not None
    return torch.is_autocast_enabled("cpu") or tracing or is_in_torch_dispatch_mode()


def _check_kind(x: object, weight: Tensor) -> None:
    """Refuse an input that is no tensor, or of another dtype or device than the weight that it meets first.

    Weights that are sharded, or kept elsewhere until they are needed ("meta"), say nothing of the dtype and device that
    they will have then.
    """
    if not isinstance(x, Tensor):
        raise ShapeError(f"the model takes a tensor [B, C, H, W], got {type(x).__name__}: torch.as_tensor makes one")
    if type(weight) not in (Tensor, nn.Parameter) or weight.device.type == "meta":
        return
    if x.device != weight.device:
        raise ShapeError(f"the model is on {weight.device} and its input on {x.device}: call x.to('{weight.device}')")
    if x.dtype == weight.dtype or (x.dtype in AUTOCAST and torch.is_autocast_enabled(x.device.type)):
        return
    ours, theirs = (str(tensor.dtype).removeprefix("torch.") for tensor in (weight, x))
    remedy = f"call x.to(torch.{ours})"
    if not x.dtype.is_floating_point:
        remedy += ", for images of 0 to 255 also / 255, and normalise them as in training"
    raise ShapeError(f"the model computes in {ours} and its input is {theirs}: {remedy}")


def checked_steps(T: int) -> int:
    """Return ``T``, where it is a number of time steps."""
    if T < 1:
        raise ShapeError(f"T, the number of time steps, must be at least 1, got {T}")
    return T
