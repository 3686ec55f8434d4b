"""What a run is made of: strict models, one for each part."""

import re
from typing import Annotated, Any, Literal, Self, get_type_hints

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    create_model,
    model_validator,
)

from isospike.data import DATA, AugmentSpec, ClassWeights, DataSpec
from isospike.models.options import RunOptions
from isospike.objectives import OBJECTIVES, CrossEntropySpec, ObjectiveSpec
from isospike.optimizers import OPTIMIZERS, OptimSpec
from isospike.schedules import SCHEDULES, ScheduleSpec
from isospike.spec import Spec

Seed = Annotated[int, Field(ge=0, lt=2**64)]


OPTIONS: dict[str, Any] = {name: (kind, None) for name, kind in get_type_hints(RunOptions).items()}
OPTIONS["neuron"] = str | dict[str, Any] | None, None  # no file holds an object


class _Named(Spec):
    name: str


_Options = create_model("_Options", __base__=_Named, **OPTIONS)


class ModelSpec(_Options):
    """Arguments of ``create_model``, ``RunOptions`` among them; classes and channels come from the data."""


def _checked_part(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"stem|backbone|stage[1-9]\d*", value):
        return value
    raise ValueError(f"what can be frozen is stem, stage1, stage2 and so on, or backbone, got {value!r}")


FrozenPart = Annotated[str, BeforeValidator(_checked_part)]


def _checked_file(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\w[\w.-]*\.json", value):
        return value
    raise ValueError(f"a network is the name of a JSON file in the run folder, got {value!r}")


FileName = Annotated[str, BeforeValidator(_checked_file)]


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

    ``imports``: code of one's own that it was made with (see ``own_rows``), and the SHA-256 of each file. ``network``:
    the file in the run folder that holds the network, as a converted one has it; ``model`` then says its name and T.
    """

    recipe: str
    seed: Seed = 0
    imports: dict[str, str] = {}
    model: ModelSpec
    network: FileName | None = None
    data: Annotated[DataSpec, DATA]
    augment: AugmentSpec = AugmentSpec()
    optim: Annotated[OptimSpec, OPTIMIZERS]
    schedule: Annotated[ScheduleSpec, SCHEDULES]
    objective: Annotated[ObjectiveSpec, OBJECTIVES] = CrossEntropySpec(kind="cross_entropy")
    train: TrainSpec

    @model_validator(mode="after")
    def _balanced_once(self) -> Self:
        if self.train.sampling == self.objective.class_weights == "balanced":
            raise ValueError("train.sampling and objective.class_weights are both 'balanced', which is twice: take one")
        return self

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        given = {key for key, value in self.model.model_dump().items() if value is not None}
        if self.network is not None and (odd := sorted(given - {"name", "T"})):
            raise ValueError(f"model.{odd[0]} changes nothing of a converted network, of which T alone can be changed")
        return self

    def to_yaml(self) -> str:
        """Return all of it, defaults included, so that a run folder says everything."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


for _kinds in (DATA, OPTIMIZERS, SCHEDULES, OBJECTIVES):
    _kinds.held_by(RunConfig)
