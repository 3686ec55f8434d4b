"""A network that is nothing but a program, as a converted one is: no row says what it does."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.graph import Program, Value, modules_of, program_from_json, program_to_json, run_eager, timed_values
from isospike.layers import Steps
from isospike.models.network import SpikingNetwork


class ProgramNet(SpikingNetwork):
    """The network of a program, with the modules that it names.

    Args:
        program: From images to logits, its only result, as recorded.
        modules: The modules that it names, by the names that they shall have; a dot makes a module of modules.
        T: Time steps for static images; a call may ask for others.
        least_size: Height and width of the smallest images that it takes.
    """

    def __init__(self, program: Program, modules: Mapping[str, nn.Module], *, T: int, least_size: int = 1) -> None:
        super().__init__(program.input.channels, T)
        self.program, self._least = program, least_size
        for name, module in modules.items():
            _place(self, name, module)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        timed = timed_values(program.operations)
        self._static = [op for op in program.operations if op.out not in timed]
        self._timed = [op for op in program.operations if op.out in timed]

    @property
    def least_size(self) -> int:
        """Height and width of the smallest images that it takes."""
        return self._least

    def encode(self, x: Tensor, steps: Steps) -> dict[Value, Any]:
        """Every map that is the same at all steps of a static image."""
        maps: dict[Value, Any] = {self.program.input: x}
        for op in self._static:
            run_eager(op, maps, steps)
        return maps

    def decode(self, current: dict[Value, Any], steps: Steps) -> Any:
        """Logits ``[T or 1, B, num_classes]``."""
        maps = dict(current)
        for op in self._timed:
            run_eager(op, maps, steps)
        return maps[self.program.results[0]]

    def as_json(self) -> dict[str, Any]:
        """All but its weights, as plain values."""
        names = {module: name for name, module in self.named_modules()}
        modules = {module: names[module] for module in modules_of(self.program)}
        return {"T": self.T, "least_size": self.least_size, "program": program_to_json(self.program, modules)}

    @classmethod
    def from_json(cls, text: Mapping[str, Any]) -> "ProgramNet":
        """The network that ``as_json`` wrote, its weights yet to be loaded.

        Raises:
            ConfigError: it is no such text; says what is wrong in it.
        """
        try:
            program, modules = program_from_json(text["program"])
            return cls(program, modules, T=text["T"], least_size=text["least_size"])
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ConfigError(f"this is no network of a program: {type(error).__name__}: {error}") from error


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register ``module`` under ``name``, and what holds it under what stands before each dot."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())  # refuses a name that something else has
        root = root.get_submodule(part)
    root.add_module(last, module)
