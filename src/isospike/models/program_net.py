"""A network that is nothing but a program, as a converted one is: no row says what it does."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isospike.errors import ConfigError
from isospike.graph import (
    Kept,
    Operation,
    Program,
    Value,
    modules_of,
    program_from_json,
    program_to_json,
    record_network,
    run_eager,
    timed_values,
    with_modules,
)
from isospike.layers import PerStepNorm, Steps
from isospike.models.network import SpikingNetwork
from isospike.text import brief


class ProgramNet(SpikingNetwork):
    """The network of a program, with the modules that it names.

    Args:
        program: From images to logits, its only result, as recorded.
        modules: The modules that it names, by the names that they shall have; a dot makes a module of modules.
        T: Time steps for static images; a call may ask for others.
        least_size: Height and width of the smallest images that it takes.
        units: Of a converted network, by the names of the neurons that stand for rectifiers, in their order: what 1 of
            their output is in the ANN, one number or one for each channel.
    """

    def __init__(
        self,
        program: Program,
        modules: Mapping[str, nn.Module],
        *,
        T: int,
        least_size: int = 1,
        units: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        super().__init__(program.input.channels, T)
        self.units = {name: tuple(unit) for name, unit in (units or {}).items()}
        self._recorded, self._least = program, least_size
        self._names = {module: name for name, module in modules.items()}
        self._current = Kept()
        self._knows_steps = any(isinstance(module, PerStepNorm) for module in modules.values())
        for name, module in modules.items():
            _place(self, name, module)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def program(self) -> Program:
        """Its program, of the modules that it has now: one that took the place of another runs in its place."""
        return self._in_order()[0]

    @property
    def least_size(self) -> int:
        """Height and width of the smallest images that it takes."""
        return self._least

    @property
    def num_classes(self) -> int:
        """Size of the logits."""
        return record_network(self).results[0].channels

    @property
    def knows_steps(self) -> bool:
        """Whether it was made of norms that know the time step."""
        return self._knows_steps

    def encode(self, x: Tensor, steps: Steps) -> tuple[dict[Value, Any], Sequence[Operation]]:
        """Compute every map that time does not change in a static image, and return the operations left."""
        program, static, timed = self._in_order()
        maps: dict[Value, Any] = {program.input: x}
        for op in static:
            run_eager(op, maps, steps)
        return maps, timed

    def decode(self, current: tuple[dict[Value, Any], Sequence[Operation]], steps: Steps) -> Any:
        """Compute logits ``[T or 1, B, num_classes]``."""
        maps = dict(current[0])
        for op in current[1]:
            run_eager(op, maps, steps)
        return maps[self._recorded.results[0]]

    def as_json(self) -> dict[str, Any]:
        """Return all but its weights, as plain values."""
        program = self.program
        names = {module: name for name, module in self.named_modules()}
        modules = {module: names[module] for module in modules_of(program)}
        said = {"T": self.T, "least_size": self.least_size, "program": program_to_json(program, modules)}
        return said | {"units": {name: list(unit) for name, unit in self.units.items()}} if self.units else said

    def _in_order(self) -> tuple[Program, list[Operation], list[Operation]]:
        """Return the program of today's modules, and its operations before time begins and after."""
        return self._current.get(self, "operations", self._reordered)

    def _reordered(self) -> tuple[Program, list[Operation], list[Operation]]:
        modules = {module: self.get_submodule(name) for module, name in self._names.items()}
        program = with_modules(self._recorded, modules)
        timed = timed_values(program.operations)
        static = [op for op in program.operations if op.out not in timed]
        return program, static, [op for op in program.operations if op.out in timed]

    @classmethod
    def from_json(cls, text: Mapping[str, Any]) -> "ProgramNet":
        """Make the network that ``as_json`` wrote, its weights yet to be loaded.

        Raises:
            ConfigError: it is no such text; says what is wrong in it.
        """
        try:
            program, modules = program_from_json(text["program"])
            T, least_size = (_counted(text, name) for name in ("T", "least_size"))
            if len(program.results) != 1:
                raise ConfigError(f"this program gives {len(program.results)} maps, and a network gives its logits")
            return cls(program, modules, T=T, least_size=least_size, units=_units(text))
        except (LookupError, TypeError, AttributeError) as error:
            raise ConfigError(f"this is no network of a program: {type(error).__name__}: {error}") from error


def _counted(text: Mapping[str, Any], name: str) -> int:
    if type(text[name]) is not int or text[name] < 1:
        raise ConfigError(
            f"{name} of a network of a program must be a whole number from 1 on, got {brief(repr(text[name]))}"
        )
    return text[name]


def _units(text: Mapping[str, Any]) -> Mapping[str, Sequence[float]]:
    units = text.get("units", {})
    for name, unit in units.items():
        if not all(type(number) in (int, float) and 0 < number < math.inf for number in unit):
            raise ConfigError(f"the units of '{brief(name)}' must be numbers above 0, got {brief(repr(unit))}")
    return units


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register ``module`` under ``name``, and what holds it under what stands before each dot."""
    *path, last = name.split(".")
    if hasattr(type(root), name.partition(".")[0]):
        raise KeyError(f"a module cannot have the name '{name}', as every network has something of that name")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())  # refuses a name that something else has
        root = root.get_submodule(part)
    root.add_module(last, module)
