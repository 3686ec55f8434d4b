"""What a run is made of: strict models, one for each part."""

import math
import re
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import tagged_union_schema

from isospike.errors import ConfigError
from isospike.registry import Registry

Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]


def _checked_class_weights(value: Any) -> Any:
    numbers = isinstance(value, list | tuple) and all(type(weight) in (int, float) for weight in value)
    if value is None or value == "balanced" or (numbers and all(0 < weight < math.inf for weight in value)):
        return tuple(map(float, value)) if numbers else value
    raise ValueError(f"it is 'balanced', or a list with a number above 0 for every class, got {value!r}")


# Of every class in the order of their labels; "balanced": such that classes count alike, however many images they have.
ClassWeights = Annotated[Literal["balanced"] | tuple[float, ...] | None, BeforeValidator(_checked_class_weights)]


class Spec(BaseModel):
    """A part of the configuration: typed strictly, no unknown keys, not changed once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelSpec(Spec):
    """Arguments of ``create_model``; classes and channels come from the data."""

    name: str
    T: PositiveInt | None = None
    body: str | None = None
    width: PositiveInt | None = None
    stem: str | None = None
    join: str | None = None
    project: str | None = None
    identity: str | None = None
    pool_projection: bool | None = None
    reach: str | None = None
    combine: str | None = None
    per_step_norm: bool | None = None
    neuron: str | dict[str, Any] | None = None
    tail_init: NonNegativeFloat | None = None
    alpha: PositiveFloat | None = None
    norm_eps: NonNegativeFloat | None = None
    norm_root_eps: NonNegativeFloat | None = None
    weight_init: str | None = None
    dropout: Share | None = None


class DataSpec(Spec):
    """What the ``data`` of a run may hold: one subclass for every ``kind``, registered by ``register_data``."""

    kind: str


class DigitsData(DataSpec):
    """Handwritten digits that come with scikit-learn, scaled up to ``size`` pixels."""

    kind: Literal["digits"]
    size: Annotated[int, Field(ge=8)] = 8


class CifarData(DataSpec):
    """CIFAR in any of its layouts below ``dir``; ``workers`` processes decode it once, into memory."""

    kind: Literal["cifar10", "cifar100"]
    dir: str | None = None
    workers: NonNegativeInt = 0


class FolderData(DataSpec):
    """``dir/{train,val}/<class>/<image>``, decoded by ``workers`` processes whenever they are needed.

    Training takes a random crop of ``crop_area`` of the image (smallest and largest share), scaled to ``size``;
    testing takes the centre, of ``test_size`` (None: ``size``), of the image whose shorter side was scaled to
    ``test_resize``.
    """

    kind: Literal["folder"]
    dir: str | None = None
    workers: NonNegativeInt = 2
    size: PositiveInt = 224
    test_size: PositiveInt | None = None
    test_resize: PositiveInt = 256
    crop_area: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        name = "size" if self.test_size is None else "test_size"
        if self.test_resize < getattr(self, name):
            raise ValueError(f"test_resize={self.test_resize} is smaller than {name}={getattr(self, name)}")
        if not self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"crop_area is (smallest, largest) share of the image, at most 1, got {self.crop_area}")
        return self


class SyntheticData(DataSpec):
    """Noisy patterns, one per class, made on the spot: for benchmarks and trials without files."""

    kind: Literal["synthetic"]
    classes: Annotated[int, Field(ge=2)] = 10
    channels: PositiveInt = 3
    size: PositiveInt = 32
    train: PositiveInt = 2048
    test: PositiveInt = 512


DATA: Registry[type[DataSpec]] = Registry("kind of data")


class _Registered:
    """Marks a field that takes every registered kind of data."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return tagged_union_schema({kind: handler.generate_schema(DATA[kind]) for kind in DATA}, discriminator="kind")


def register_spec(spec: type[DataSpec]) -> tuple[str, ...]:
    """Let the ``data`` of a run hold ``spec``; ``isospike.data.register_data`` calls it.

    Returns:
        The kinds that its ``kind`` names.

    Raises:
        ConfigError: its ``kind`` is no ``Literal`` of names.
        ValueError: one of them is taken.
    """
    kinds = _register(spec)
    RunConfig.model_rebuild(force=True)
    return kinds


def _register(spec: type[DataSpec]) -> tuple[str, ...]:
    kinds = get_args(spec.model_fields["kind"].annotation)
    if not kinds:
        raise ConfigError(f'{spec.__name__} must say its kind, as in kind: Literal["{spec.__name__.lower()}"]')
    for kind in kinds:
        DATA.register(kind, spec)
    return kinds


for _spec in (DigitsData, CifarData, FolderData, SyntheticData):
    _register(_spec)


class RandAugmentSpec(Spec):
    """``n`` random operations of magnitude ``m`` (of 30) on every image."""

    kind: Literal["randaugment"]
    n: PositiveInt = 2
    m: Annotated[int, Field(gt=0, lt=30)] = 9


class AutoAugmentSpec(Spec):
    """One of the learned policies of a table on every image."""

    kind: Literal["autoaugment"]
    table: Literal["cifar10", "imagenet", "svhn"]


class AugmentSpec(Spec):
    """What is done to training images; nothing by default.

    ``crop``: pixels of black border before a random crop of the old size. ``flip``: mirror half of the images.
    ``cutout``: side of a square that is set to the mean. ``mixup``, ``cutmix``: their alpha, 0 for none; with both,
    each batch draws one of the two.
    """

    crop: NonNegativeInt = 0
    flip: bool = False
    policy: Annotated[RandAugmentSpec | AutoAugmentSpec, Field(discriminator="kind")] | None = None
    cutout: NonNegativeInt = 0
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0


NoDecay = Literal["norm", "bias", "neuron"]


class SGDSpec(Spec):
    """Stochastic gradient descent; ``no_decay`` names the groups without weight decay."""

    kind: Literal["sgd"]
    lr: PositiveFloat
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0
    no_decay: tuple[NoDecay, ...] = ()


class AdamWSpec(Spec):
    """Adam with decoupled weight decay; ``no_decay`` names the groups without it."""

    kind: Literal["adamw"]
    lr: PositiveFloat
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01
    no_decay: tuple[NoDecay, ...] = ()


OptimSpec = Annotated[SGDSpec | AdamWSpec, Field(discriminator="kind")]


class CosineSchedule(Spec):
    """From lr to ``min_lr`` along half a cosine, after a linear warm-up; changing every step or every epoch."""

    kind: Literal["cosine"]
    warmup_epochs: NonNegativeFloat = 0.0
    min_lr: NonNegativeFloat = 0.0
    every: Literal["step", "epoch"] = "step"


class StepSchedule(Spec):
    """lr times ``gamma`` at every milestone (in epochs), after a linear warm-up."""

    kind: Literal["steps"]
    milestones: tuple[PositiveInt, ...]
    gamma: PositiveFloat = 0.1
    warmup_epochs: NonNegativeFloat = 0.0


class ConstantSchedule(Spec):
    """lr throughout, after a linear warm-up."""

    kind: Literal["constant"]
    warmup_epochs: NonNegativeFloat = 0.0


ScheduleSpec = Annotated[CosineSchedule | StepSchedule | ConstantSchedule, Field(discriminator="kind")]


class CrossEntropySpec(Spec):
    """Cross-entropy on the mean logits.

    ``class_weights`` multiply what an image of a class adds to the loss of training, scaled so that they are 1 on
    average over the training images: the learning rate keeps its meaning. Tests are not weighted.
    """

    kind: Literal["cross_entropy"]
    label_smoothing: Share = 0.0
    class_weights: ClassWeights = None


class TETSpec(Spec):
    """Mean over time of the cross-entropies, plus ``weight`` times the squared distance of logits to ``target``.

    ``class_weights``: of the cross-entropies, as there.
    """

    kind: Literal["tet"]
    label_smoothing: Share = 0.0
    class_weights: ClassWeights = None
    weight: Share = 0.05
    target: float = 1.0


ObjectiveSpec = Annotated[CrossEntropySpec | TETSpec, Field(discriminator="kind")]


def _checked_part(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"stem|backbone|stage[1-9]\d*", value):
        return value
    raise ValueError(f"what can be frozen is stem, stage1, stage2 and so on, or backbone, got {value!r}")


FrozenPart = Annotated[str, BeforeValidator(_checked_part)]


class TrainSpec(Spec):
    """How long, in what batches, in what precision, and how often to write.

    ``batch_size`` is what one optimiser step sees in one process; it is cut into ``accumulate`` parts.
    ``memory`` is a name of ``MEMORY``: what is kept for the backward pass, and what is computed anew.
    ``cuda_graph`` captures the step once and replays it, on one GPU: faster where a network is deep and thin.
    ``log_every`` and ``checkpoint_every`` are in optimiser steps; a checkpoint is also written after every epoch. Of
    the first step and every ``watch_every``-th after it, what fires and what flows is recorded; 0: of none.
    ``weights`` is what training starts from: a run, a folder of ``save_pretrained`` or a file of weights. ``freeze``
    names what stays as it starts: "stem", "stage1" and so on, or "backbone", which is all but the classifier; norms in
    it keep their running statistics too. ``sampling`` draws the images of an epoch anew, with replacement, each with
    the weight of its class; without it each image comes once.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    test_batch_size: PositiveInt = 256
    accumulate: PositiveInt = 1
    clip_norm: PositiveFloat | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    sync_norm: bool = False
    memory: Literal["fast", "lean", "leanest"] = "fast"
    cuda_graph: bool = False
    log_every: PositiveInt = 1
    watch_every: NonNegativeInt = 50
    checkpoint_every: PositiveInt = 200
    tensorboard: bool = True
    weights: str | None = None
    freeze: tuple[FrozenPart, ...] = ()
    sampling: ClassWeights = None

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be cut into accumulate={self.accumulate} equal parts"
            )
        if self.cuda_graph and self.precision == "fp16":
            raise ValueError("cuda_graph captures steps in fp32 or bf16; in fp16 the scale of gradients is the host's")
        return self


class RunConfig(Spec):
    """A whole run.

    ``imports``: code of one's own that it was made with (see ``own_rows``), and the SHA-256 of each file.
    """

    recipe: str
    seed: Seed = 0
    imports: dict[str, str] = {}
    model: ModelSpec
    data: Annotated[DataSpec, _Registered()]
    augment: AugmentSpec = AugmentSpec()
    optim: OptimSpec
    schedule: ScheduleSpec
    objective: ObjectiveSpec = CrossEntropySpec(kind="cross_entropy")
    train: TrainSpec

    @model_validator(mode="after")
    def _balanced_once(self) -> Self:
        if self.train.sampling == self.objective.class_weights == "balanced":
            raise ValueError("train.sampling and objective.class_weights are both 'balanced', which is twice: take one")
        return self

    def to_yaml(self) -> str:
        """All of it, defaults included, so that a run folder says everything."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
