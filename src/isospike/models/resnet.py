"""The model: a topology's units in a body's layout."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError, ShapeError
from isospike.fused_training import TrainingPass
from isospike.graph import Kept, Network, Unrecordable, record
from isospike.inference import CompiledNet, Precision
from isospike.inputs import Inputs
from isospike.layers import MEMORY, WEIGHT_INITS, BatchNorm, Chain, Steps
from isospike.models.bodies import STEMS, Layout
from isospike.models.features import FeatureInfo, checked_indices, describe
from isospike.models.head import Head
from isospike.neurons import Neuron, build_neuron
from isospike.residual import Links, Map, ResidualUnit, Stage, Topology, build_chain
from isospike.residual.unit import Conv

FromCurrent = Callable[[Tensor, Steps], list[Tensor]]  # from stem currents to what is asked for

AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)  # what torch.autocast casts


class SpikingResNet(Network):
    """A residual spiking network.

    Every forward starts from rest, and nothing of it stays in the module. In training all time steps go through a
    layer at once, as one batch. In eval they go through the network one after the other: memory does not grow with
    T, and a clip gives the same bits as the same steps streamed through ``step``. A static image passes the stem
    once.

    Args:
        topology: The residual row.
        layout: Stages, widths, stem.
        num_classes: Size of the logits; 0 for a backbone that puts out pooled features.
        in_channels: Channels of the input.
        T: Time steps for static images; a call may ask for others.
    """

    def __init__(
        self, topology: Topology, layout: Layout, *, num_classes: int, in_channels: int = 3, T: int | None = None
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}  # arguments of create_model that build this model again
        self.inputs: Inputs | None = None  # what its images must be, where it was trained on some
        self._memory = "fast"
        self._passes = Kept()
        self.T: int = _checked_steps(topology.T if T is None else T)
        topology = replace(topology, T=self.T)
        self.topology, self.layout, self.in_channels = topology, layout, in_channels
        self.stem = _stem(topology, layout, in_channels)
        self.opening = build_chain(topology, topology.opening.split(), layout.stem_width, [], [])
        if STEMS[layout.stem].max_pool:
            self.opening.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
        self.stages = nn.ModuleList()
        maps = [Map(layout.stem_width, 1)]
        for width, blocks, stride in zip(layout.widths, layout.blocks, layout.strides, strict=True):
            self.stages.append(_stage(topology, layout, maps, width, blocks, stride))
        channels = maps[-1].channels
        closing = topology.closing.split()
        self.closing = build_chain(topology, closing, channels, [], [topology.norm] * closing.count("norm"))
        neuron = build_neuron(topology.neuron) if layout.hidden else None
        self.head: Head = Head(channels, num_classes, dropout=layout.dropout, hidden=layout.hidden, neuron=neuron)
        for layer in (self.head.hidden, self.head.fc):
            if isinstance(layer, nn.Linear):
                WEIGHT_INITS[topology.weight_init](layer)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def memory(self) -> str:
        """What training keeps for the backward pass; a name of ``MEMORY``: "fast", "lean" or "leanest".

        All give the same gradients. "fast" keeps the input of every convolution, spikes at one bit, and of every norm;
        "lean" that of every unit, and computes the unit anew; "leanest" that of every few units.
        """
        return self._memory

    @memory.setter
    def memory(self, name: str) -> None:
        MEMORY[name]
        self._memory = name

    @property
    def num_features(self) -> int:
        """Width of what enters the classifier."""
        return self.head.features

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, reduction and module of every map of ``stage_maps``."""
        first = "opening" if len(list(self.opening.children())) else "stem"
        return describe(self.layout, first, self.stages)  # type: ignore[arg-type]

    def units(self) -> Iterator[ResidualUnit]:
        """Every residual unit, from the stem to the head."""
        for stage in self.stages:
            yield from stage  # type: ignore[misc]

    def forward(self, x: Tensor, *, T: int | None = None, per_step: bool = False) -> Tensor:
        """Logits, from rest.

        Args:
            x: Static images ``[B, C, H, W]``, or one input per step ``[T, B, C, H, W]``.
            T: Time steps for static images; the model's own where it is not given.
            per_step: Keep the logits of every step.

        Returns:
            ``[B, num_classes]``, the mean over time, or ``[T, B, num_classes]``.

        Raises:
            ShapeError: shape, dtype or device of the input do not fit; the text says what would.
        """
        (logits,) = self._unroll("logits", x, T, lambda current, steps: [self._logits(current, steps)])
        return logits if per_step else logits.mean(0)

    def forward_features(self, x: Tensor, *, T: int | None = None) -> Tensor:
        """The last feature maps ``[T, B, num_features, H', W']``, before pooling; arguments as in ``forward``."""
        (features,) = self._unroll("features", x, T, lambda current, steps: [self._features(current, steps)])
        return features

    def stage_maps(self, x: Tensor, *, T: int | None = None, stages: int | None = None) -> list[Tensor]:
        """What enters the first stage and what every stage puts out, ``[T, B, C, H, W]`` each.

        They are membrane currents or spikes, as the topology's stream is. ``FeatureMaps`` picks some of them.

        Args:
            x: As in ``forward``.
            T: As in ``forward``.
            stages: How many stages run; None: all.
        """

        def run(current: Tensor, steps: Steps) -> list[Tensor]:
            return [steps.unroll(output) for output in self._outputs(current, steps, stages)]

        return self._unroll(f"maps of {stages} stages", x, T, run)

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | None = None, *, T: int | None = None, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """``(forward_features(x), maps)`` in one pass, or the maps alone, ``[T, B, C, H, W]`` each.

        Args:
            x: As in ``forward``.
            indices: Which maps of ``stage_maps``; None: all.
            T: As in ``forward``.
            intermediates_only: Leave the last feature maps out.

        Raises:
            ConfigError: there is no map with such an index.
        """
        chosen = checked_indices(indices, len(self.stages) + 1)

        def run(current: Tensor, steps: Steps) -> list[Tensor]:
            outputs = self._outputs(current, steps)
            return [steps.unroll(output) for output in (*outputs, steps.run(self.closing, outputs[-1]))]

        *maps, features = self._unroll("maps and features", x, T, run)
        maps = [maps[index] for index in chosen]
        return maps if intermediates_only else (features, maps)

    @torch.no_grad()
    def step(self, x: Tensor, state: Mapping[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """One time step of a stream.

        Args:
            x: Input of this step ``[B, C, H, W]``.
            state: What the step before returned: the potential ``[B, ...]`` of every neuron by its name in the model
                (and the number of steps done, where norms know the step); None: from rest.

        Returns:
            ``(logits, state)``: ``[B, num_classes]`` of this step, equal bit for bit to the same step of
            ``forward(clip, per_step=True)``, and the potentials after it.

        Raises:
            ConfigError: the model is in training mode, where batch statistics need all steps; or the state is that
                of another model.
        """
        if self.training:
            raise ConfigError("step() runs a trained model: call model.eval() first")
        _check_kind(x, next(self.stem.parameters()))
        self._check_input(x, dims=4)
        neurons = {name: m for name, m in self.named_modules() if isinstance(m, Neuron)}
        counted = {"step"} if self.topology.per_step_norm else set()
        if state is not None and state.keys() != neurons.keys() | counted:
            odd = sorted(state.keys() ^ (neurons.keys() | counted))[0]
            raise ConfigError(f"this state is of another model: '{odd}' is a neuron of only one of the two")
        state = state or {}
        done = int(state["step"]) if counted and state else 0
        if counted and done == self.T:
            raise ShapeError(f"the norms of this model know {self.T} time steps, and the stream has had them all")
        steps = Steps(1, {neuron: state[name] for name, neuron in neurons.items() if name in state}, start=done)
        logits = self.run(x.unsqueeze(0), steps)
        after = steps.v or {}
        potentials = {name: after[neuron] for name, neuron in neurons.items()}
        return logits[0], potentials | {name: torch.tensor(done + 1) for name in counted}

    def compile_for_inference(self, precision: Precision = "float32") -> CompiledNet:
        """A new module that takes and gives the same tensors, several times faster on a CPU; it is not for training.

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

    def reset_classifier(self, num_classes: int) -> None:
        """A new, untrained classifier of this size, whose classes have no names yet; 0 takes it away."""
        if num_classes < 0:
            raise ConfigError(f"num_classes must be 0 or more, got {num_classes}")
        weight = next(self.parameters())
        self.options["num_classes"] = num_classes
        self.inputs = self.inputs and replace(self.inputs, classes=())
        self.head.reset(num_classes)
        if isinstance(self.head.fc, nn.Linear):
            WEIGHT_INITS[self.topology.weight_init](self.head.fc)
        self.head.to(device=weight.device, dtype=weight.dtype)

    def run(self, x: Tensor, steps: Steps) -> Tensor:
        """Logits ``[T or 1, B, num_classes]`` of inputs ``[T or 1, B, C, H, W]``; see ``Network``."""
        return self._logits(steps.run(self.stem, x), steps)

    def _outputs(self, current: Tensor, steps: Steps, stages: int | None = None) -> list[Tensor]:
        """What enters the first stage, and what the first ``stages`` put out, ``[T or 1, B, C, H, W]`` each."""
        outputs = [steps.run(self.opening, current)]
        for stage in list(self.stages)[:stages]:
            outputs.append(steps.run(stage, outputs))
        return outputs

    def _features(self, current: Tensor, steps: Steps) -> Tensor:
        """The last feature maps ``[T, B, C, H', W']`` for stem currents ``[T or 1, B, C, H, W]``."""
        return steps.run(self.closing, self._outputs(current, steps)[-1])

    def _logits(self, current: Tensor, steps: Steps) -> Tensor:
        return steps.run(self.head, self._features(current, steps))

    def _unroll(self, name: str, x: Tensor, T: int | None, run: FromCurrent) -> list[Tensor]:
        """``run``, which has this name, over all steps of ``x``: at once in training, one after the other in eval."""
        x, T = self.as_sequence(x, T)
        return self._train(name, x, Steps(T), run) if self.training else self._evaluate(x, T, run)

    def _evaluate(self, x: Tensor, T: int, run: FromCurrent) -> list[Tensor]:
        """Its own modules, whose stem sees a static image once; its channels-last weights make currents so."""
        steps = Steps(1, {})
        static = x.shape[0] != T
        current = steps.run(self.stem, x) if static else None
        outputs = []
        for steps.start in range(T):
            now = steps.run(self.stem, x[steps.start : steps.start + 1]) if current is None else current
            outputs.append(run(now, steps))
        return [torch.cat(parts) for parts in zip(*outputs, strict=True)]

    def _train(self, name: str, x: Tensor, steps: Steps, run: FromCurrent) -> list[Tensor]:
        """The rewritten program, or the modules themselves where none can be written down, or the compiler traces."""

        def forward(x: Tensor, steps: Steps) -> list[Tensor]:
            return run(steps.run(self.stem, x), steps)

        if torch.compiler.is_compiling():
            return forward(x, steps)
        try:
            fused = self._passes.get(
                self, (name, self.memory), lambda: TrainingPass(record(forward, self.in_channels), self.memory)
            )
        except Unrecordable as error:
            if self.memory != "fast":
                raise ConfigError(f"memory='{self.memory}' cuts the program of a network, and {error}") from error
            return forward(x, steps)
        return [steps.unroll(result) for result in fused(x, steps)]

    def as_sequence(self, x: Tensor, T: int | None) -> tuple[Tensor, int]:
        """``x`` as ``[T or 1, B, C, H, W]``, and the number of steps."""
        _check_kind(x, next(self.stem.parameters()))
        self._check_input(x, dims=4 if x.dim() == 4 else 5)
        if x.dim() == 4:
            x, T = x.unsqueeze(0), self.T if T is None else T
        elif T is not None and x.shape[0] != T:
            raise ShapeError(f"the input has {x.shape[0]} time steps, T={T} was asked for: leave T out")
        else:
            T = x.shape[0]
        if self.topology.per_step_norm and T != self.T:
            raise ShapeError(
                f"the norms of this model know {self.T} time steps, {T} were asked for: create it with T={T}, or with "
                "norms that all steps share"
            )
        return x, _checked_steps(T)

    def _check_input(self, x: Tensor, dims: int) -> None:
        if x.dim() != dims or x.shape[-3] != self.in_channels:
            expected = f"[B, {self.in_channels}, H, W]" + (f" or [T, B, {self.in_channels}, H, W]" if dims == 5 else "")
            raise ShapeError(f"the model takes {expected}, got {list(x.shape)}")
        least = self.layout.total_stride
        if min(x.shape[-2:]) < least:
            raise ShapeError(
                f"images of {x.shape[-2]}x{x.shape[-1]} are smaller than the stride of this body, {least}: "
                f"take images of at least {least}x{least}, or a body or stem with less stride, as stem='cifar'"
            )


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


def _checked_steps(T: int) -> int:
    if T < 1:
        raise ShapeError(f"T, the number of time steps, must be at least 1, got {T}")
    return T


def _stem(topology: Topology, layout: Layout, in_channels: int) -> Chain:
    """Convolutions and one norm: what of a static image is computed once."""
    stem = STEMS[layout.stem]
    convs = [Conv(layout.stem_width, kernel, stride, stem.bias) for kernel, stride in stem.convs]
    shared = replace(topology, per_step_norm=False)  # a static image is the same at every step, and so is its norm
    chain = build_chain(shared, ["conv"] * len(convs) + ["norm"], in_channels, convs, [topology.norm])
    if not stem.input_norm:
        return chain
    scale, eps, root_eps = topology.norm.scale(topology.v_threshold), topology.norm_eps, topology.norm_root_eps
    norm = BatchNorm(in_channels, scale=scale, affine=False, eps=eps, root_eps=root_eps)
    return Chain([("input_norm", norm), *chain.named_children()])


def _stage(topology: Topology, layout: Layout, maps: list[Map], width: int, blocks: int, stride: int) -> Stage:
    """The next stage behind those that put out ``maps``, to which its own is appended."""
    before = maps[-1]
    channels, widening = before.channels, None
    if layout.pool_stages and channels != width:
        kernel, _ = STEMS[layout.stem].convs[0]
        words = ["conv", "norm", *topology.opening.split()]
        widening = build_chain(topology, words, channels, [Conv(width, kernel)], [topology.norm])
        channels = width
    units = []
    for index in range(blocks):
        first = index == 0
        unit = ResidualUnit(
            replace(topology, identity="norm") if layout.norm_stages and first else topology,
            channels,
            width,
            stride=stride if first else 1,
            bottleneck=layout.bottleneck,
            pool_projection=layout.pool_projection,
            always_project=layout.project_stages and first,
        )
        channels = unit.out_channels
        units.append(unit)
    maps.append(Map(channels, before.stride * stride))
    links = Links.of(topology, maps)
    pool = nn.MaxPool2d(2) if layout.pool_stages else None
    return Stage(topology, units, widening=widening, links=links, pool=pool)
