"""Every error that isospike raises on purpose.

The text of each is one sentence for the person who made the call: what was wrong, where, what would be right.
"""


class IsospikeError(ValueError):
    """Base of all errors below: the input, the configuration or a file is not usable."""


class UnknownName(IsospikeError):
    """A name that no registry holds; the text lists the nearest ones."""


class ShapeError(IsospikeError):
    """A tensor of the wrong shape, dtype or device; the text gives what came and what is expected."""


class ConfigError(IsospikeError):
    """A configuration that cannot be used."""


class DataError(IsospikeError):
    """Images or labels that cannot be used; the text names the file."""


class CheckpointError(IsospikeError):
    """A file of weights or a checkpoint that is damaged or belongs to something else."""


class MissingExtra(IsospikeError):
    """An optional package is not installed; the text names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'isospike[{extra}]'")


class RunFailed(IsospikeError):
    """A run that started well and cannot go on: the loss is not finite, the disk is full."""


class IsospikeWarning(UserWarning):
    """Something works, but not as well as it could; the text says what would help. Given once."""
