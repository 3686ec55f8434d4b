"""The options of a model, typed once: ``create_model`` takes them, and a run's configuration holds them."""

from typing import TypedDict

from isospike.neurons import NeuronSpec


class RunOptions(TypedDict, total=False):
    """Options that a run names; ``create_model`` says what they do. None leaves it to the topology or the body."""

    T: int | None
    body: str | None
    width: int | None
    stem: str | None
    join: str | None
    project: str | None
    identity: str | None
    pool_projection: bool | None
    reach: str | None
    combine: str | None
    per_step_norm: bool | None
    neuron: NeuronSpec | None
    tail_init: float | None
    alpha: float | None
    norm_eps: float | None
    norm_root_eps: float | None
    weight_init: str | None
    dropout: float | None


class ModelOptions(RunOptions, total=False):
    """All options: in a run the data say how many classes and channels there are."""

    num_classes: int | None
    in_channels: int | None
    weights: str | None
