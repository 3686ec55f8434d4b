"""The configuration of a run: what may stand in it, and how it is read."""

from isospike.config.reading import (
    apply_overrides,
    find_key,
    read_config,
    tuples,
    with_data_dir,
    with_data_keys,
    with_epochs,
)
from isospike.config.specs import ModelSpec, RunConfig, TrainSpec
from isospike.config.yaml_text import parse_yaml, read_yaml

__all__ = [
    "ModelSpec",
    "RunConfig",
    "TrainSpec",
    "apply_overrides",
    "find_key",
    "parse_yaml",
    "read_config",
    "read_yaml",
    "tuples",
    "with_data_dir",
    "with_data_keys",
    "with_epochs",
]
