"""Options that other tools have, answered by what does it here."""

from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand

from isospike.config import find_key
from isospike.errors import ConfigError

# Other words for keys of a run, and for options.
KEYS = {
    "learning_rate": "optim.lr",
    "optimizer": "optim.kind",
    "scheduler": "schedule.kind",
    "loss": "objective.kind",
    "dataset": "data.kind",
    "timesteps": "model.T",
    "time_steps": "model.T",
    "batch": "train.batch_size",
    "bs": "train.batch_size",
    "wd": "optim.weight_decay",
    "num_workers": "data.workers",
    "amp": "train.precision",
    "grad_accum": "train.accumulate",
    "clip_grad": "train.clip_norm",
}
OPTIONS = {
    "data": "--data-dir",
    "data_path": "--data-dir",
    "config": "--recipe",
    "output": "--out",
    "output_dir": "--out",
    "gpu": "--device",
    "imports": "--import",
    "steps": "--max-steps",
}


class TrainCommand(TyperCommand):
    """``isospike train``, which answers an option that is a key of a run by the ``--set`` of that key."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as every command does, once no option is one of those.

        Raises:
            ConfigError: one is; says what to write instead.
        """
        own = {name for parameter in self.params for name in parameter.opts}
        for option, value in _options(args):
            if option not in own and (instead := _instead(option.removeprefix("--").replace("-", "_"), value)):
                raise ConfigError(f"isospike train has no option {option}: write {instead}")
        return super().parse_args(ctx, args)


def _options(args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield every long option of a command line, with its value or what follows it; None where nothing does."""
    for place, argument in enumerate(args):
        if argument == "--":
            return
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            following = next(iter(args[place + 1 :]), "--")
            yield option, value if equals else None if following.startswith("--") else following


def _instead(word: str, value: str | None) -> str | None:
    """Return what does here what this option does elsewhere; None where that is not known."""
    if word in OPTIONS:
        return f"{OPTIONS[word]} {value or OPTIONS[word].removeprefix('--').upper()}"
    key = KEYS.get(word) or find_key(word)
    return None if key is None else f"--set {key}={value or 'VALUE'}"
