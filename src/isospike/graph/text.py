"""A program as JSON and back, weights apart: a network that no row describes is saved and loaded like any other."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import nn

from isospike.errors import ConfigError
from isospike.graph.checks import check_program
from isospike.graph.program import Affine, Between, Call, Complement, Conv, Operation, Program, Value
from isospike.layers import (
    BatchNorm,
    BiasOnce,
    Changes,
    Conv2d,
    DelayedReadout,
    Differential,
    DifferentialReadout,
    GlobalPool,
    PaddedShortcut,
    PerStepNorm,
    SignedIF,
    SpikingMaxPool,
    SpikingReadout,
    is_exactly,
)
from isospike.neurons import IF, ILIF, LIF, MLF, NEURONS, PLIF, QCFS, ReLU, SpikingNeuron
from isospike.registry import Registry, check_options
from isospike.residual import Domain, Join, Scale
from isospike.surrogates import SURROGATES
from isospike.text import brief

Options = dict[str, Any]
VERSION = 1
# Options of layers: the least of whole numbers or pairs of them, yes or no, and other numbers. Neurons check theirs.
WHOLE = {
    "in_channels": 1, "out_channels": 1, "in_features": 1, "out_features": 1, "num_features": 1, "groups": 1,
    "kernel_size": 1, "stride": 1, "dilation": 1, "padding": 0, "before": 0, "behind": 0, "L": 1,
}  # fmt: skip
FLAGS = ("bias", "affine", "ceil_mode", "count_include_pad")
NUMBERS = ("scale", "factor", "start", "eps", "root_eps", "momentum")
PARTS = ("x_affine", "y_affine", "affine", "neuron")  # of an operation between two convolutions


@dataclass(frozen=True)
class Kind:
    """How modules of one class are written.

    Args:
        module: The class.
        write: The arguments that make such a module again; its weights come from elsewhere.
        make: Makes it from them.
    """

    module: type[nn.Module]
    write: Callable[[Any], Options]
    make: Callable[..., nn.Module]


MODULES: Registry[Kind] = Registry("kind of module")


def program_to_json(program: Program, names: Mapping[nn.Module, str]) -> Options:
    """Write the program as plain values.

    Args:
        program: As recorded, before any rule.
        names: Of every module in it.

    Raises:
        ConfigError: there is no kind for a module.
    """
    return {
        "version": VERSION,
        "modules": {names[module]: module_to_json(module) for module in dict.fromkeys(modules_of(program))},
        "values": [_value_to_json(value) for value in _values(program)],
        "operations": [_operation_to_json(op, names) for op in program.operations],
        "input": program.input.number,
        "results": [value.number for value in program.results],
    }


def program_from_json(text: Mapping[str, Any]) -> tuple[Program, dict[str, nn.Module]]:
    """Read the program that ``program_to_json`` wrote, of new modules by name.

    Raises:
        ConfigError: it is no such text; says what is wrong in it.
    """
    if text.get("version") != VERSION:
        raise ConfigError(f"a program of version {text.get('version')!r} cannot be read: this release reads {VERSION}")
    try:
        modules = {str(name): module_from_json(options) for name, options in text["modules"].items()}
        values = [_value_from_json(number, *value) for number, value in enumerate(text["values"])]
        operations = tuple(_operation_from_json(op, values, modules) for op in text["operations"])
        results = tuple(values[number] for number in text["results"])
        program = Program(operations, values[text["input"]], results)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f"this is no program: {type(error).__name__}: {brief(str(error), 200)}") from error
    check_program(program)
    for name in modules.keys() - {name for name, module in modules.items() if module in modules_of(program)}:
        raise ConfigError(f"no operation of a program names its module '{brief(name)}'")
    return program, modules


def modules_of(program: Program) -> list[nn.Module]:
    """List the modules that its operations name, in their order."""
    found: list[object] = []
    for op in program.operations:
        found += [op.x_affine, op.affine, op.y_affine, op.neuron] if isinstance(op, Between) else [op.module]
    return [module for module in found if isinstance(module, nn.Module)]


def with_modules(program: Program, modules: Mapping[nn.Module, nn.Module]) -> Program:
    """Return the same program with other modules in the places of those that it names."""

    def swapped(op: Operation) -> Operation:
        if not isinstance(op, Between):
            return replace(op, module=modules[op.module])  # type: ignore[arg-type]
        parts = ((name, getattr(op, name)) for name in PARTS)
        others: dict[str, Any] = {name: modules[part] for name, part in parts if isinstance(part, nn.Module)}
        return replace(op, **others)

    return replace(program, operations=tuple(map(swapped, program.operations)))


def _values(program: Program) -> list[Value]:
    values = sorted({program.input, *(op.out for op in program.operations)}, key=lambda value: value.number)
    assert [value.number for value in values] == list(range(len(values)))
    return values


def _value_to_json(value: Value) -> list[Any]:
    """Channels, the largest integer, and True where it has a sign."""
    domain = value.domain
    return [value.channels, domain.largest, *([True] if domain.signed else [])]


def _value_from_json(number: int, channels: int, largest: int | None, signed: bool = False) -> Value:
    return Value(number, int(channels), Domain(None if largest is None else int(largest), bool(signed)))


def _operation_to_json(op: Operation, names: Mapping[nn.Module, str]) -> Options:
    if not isinstance(op, Between):
        timed = {"timed": True} if isinstance(op, Call) and op.timed else {}
        return {"x": op.x.number, "out": op.out.number, "module": names[op.module]} | timed
    written: Options = {"x": op.x.number, "out": op.out.number}
    for name in ("y", "z"):
        if (value := getattr(op, name)) is not None:
            written[name] = value.number
    for name in PARTS:
        if (part := getattr(op, name)) is not None:
            written[name] = _affine_to_json(part, names)
    if isinstance(op.join, Join):
        raise ConfigError(f"join '{op.join.name}' cannot be written into a program: it is not made of +, * and 1 - x")
    return written if op.join is None else written | {"join": op.join}


def _affine_to_json(affine: Affine, names: Mapping[nn.Module, str]) -> str | float:
    if isinstance(affine, Complement):
        return "1 - x"
    return names[affine] if isinstance(affine, nn.Module) else affine


def _operation_from_json(text: Mapping[str, Any], values: Sequence[Value], modules: Mapping[str, Any]) -> Operation:
    x, out = values[text["x"]], values[text["out"]]
    if "module" in text:
        module = modules[text["module"]]
        return Conv(x, out, module) if is_exactly(module, Conv2d) else Call(x, out, module, text.get("timed", False))
    parts: Options = {name: values[text[name]] for name in ("y", "z") if name in text}
    for name in PARTS:
        if name in text:
            parts[name] = _affine_from_json(text[name], modules)
    return Between(x, out, join=text.get("join"), **parts)


def _affine_from_json(text: str | float, modules: Mapping[str, Any]) -> Any:
    if text == "1 - x":
        return Complement()
    return modules[text] if isinstance(text, str) else float(text)


def module_to_json(module: nn.Module) -> Options:
    """Write the kind of a module, and the arguments that make it again.

    Raises:
        ConfigError: there is no kind for it.
    """
    for name in MODULES:
        if is_exactly(module, MODULES[name].module):
            return {"kind": name, **MODULES[name].write(module)}
    raise ConfigError(
        f"a {type(module).__name__} cannot be written into a program: there are kinds for {', '.join(MODULES)}"
    )


def module_from_json(text: Mapping[str, Any]) -> nn.Module:
    """Make the module that ``module_to_json`` wrote, without weights.

    Raises:
        IsospikeError: there is no such kind, or it has no such argument.
    """
    kind = MODULES[text["kind"]]
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in text.items() if name != "kind"}
    check_options(f"module '{text['kind']}'", kind.make, options)
    for name, value in options.items():
        if not _can_be(name, value):
            raise ConfigError(f"the {name} of a module '{text['kind']}' cannot be {brief(repr(value))}")
    return kind.make(**options)


def _can_be(name: str, value: Any) -> bool:
    """Return whether an option of a layer may have this value, as far as that follows from its name."""
    if name in WHOLE:
        pair = value if isinstance(value, tuple) and len(value) == 2 else (value,)
        return all(type(number) is int and WHOLE[name] <= number < 2**31 for number in pair) or value in (
            "same",
            "valid",
        )
    if name in FLAGS:
        return isinstance(value, bool)
    return name not in NUMBERS or (type(value) in (int, float) and math.isfinite(value))


def attributes(*names: str) -> Callable[[nn.Module], Options]:
    """Writes these attributes of a module."""
    return lambda module: {name: getattr(module, name) for name in names}


def with_bias(*names: str) -> Callable[[nn.Module], Options]:
    """Writes these, and whether there is a bias."""
    return lambda module: attributes(*names)(module) | {"bias": module.bias is not None}


def rule_of(neuron: SpikingNeuron) -> Options:
    """Return the fields of its rule, a surrogate as ``{"kind": name, ...}``."""
    rule = {field.name: getattr(neuron.rule, field.name) for field in fields(neuron.rule)}
    if "surrogate" in rule:
        (name,) = (name for name in SURROGATES if SURROGATES[name] is type(rule["surrogate"]))
        rule["surrogate"] = {"kind": name, **asdict(rule["surrogate"])}
    return rule


def _lif(neuron: LIF) -> Options:
    leak = {"decay": neuron.decay} if neuron.gain == 1 else {"tau": 1 / neuron.gain}
    return rule_of(neuron) | leak


def _mlf(neuron: MLF) -> Options:
    rule = rule_of(neuron)
    higher = rule.pop("higher")
    step = higher[0] - rule["v_threshold"] if higher else 1.0
    return rule | {"levels": neuron.levels, "decay": neuron.decay, "v_step": step}


def _per_step(norms: PerStepNorm) -> Options:
    return _norm(norms[0]) | {"T": len(norms)}


_norm = attributes("num_features", "scale", "affine", "eps", "root_eps", "momentum")
_conv = with_bias("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_max_pool = attributes("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_spiking_max_pool = attributes("kernel_size", "stride", "padding", "dilation", "ceil_mode", "levels", "signed")
_average_pool = attributes("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

for _name, _kind in {
    "conv": Kind(Conv2d, _conv, Conv2d),
    "linear": Kind(nn.Linear, with_bias("in_features", "out_features"), nn.Linear),
    "norm": Kind(BatchNorm, _norm, BatchNorm),
    "per_step_norm": Kind(PerStepNorm, _per_step, PerStepNorm),
    "scale": Kind(Scale, attributes("factor"), Scale),
    "max_pool": Kind(nn.MaxPool2d, _max_pool, nn.MaxPool2d),
    "average_pool": Kind(nn.AvgPool2d, _average_pool, nn.AvgPool2d),
    "global_pool": Kind(GlobalPool, attributes(), GlobalPool),
    "flatten": Kind(nn.Flatten, attributes(), nn.Flatten),
    "padded_shortcut": Kind(PaddedShortcut, attributes("in_channels", "stride", "before", "behind"), PaddedShortcut),
    "identity": Kind(nn.Identity, attributes(), nn.Identity),
    "if": Kind(IF, rule_of, NEURONS["if"]),
    "lif": Kind(LIF, _lif, NEURONS["lif"]),
    "plif": Kind(PLIF, rule_of, NEURONS["plif"]),
    "mlf": Kind(MLF, _mlf, NEURONS["mlf"]),
    "ilif": Kind(ILIF, lambda neuron: rule_of(neuron) | {"decay": neuron.decay}, NEURONS["ilif"]),
    "relu": Kind(ReLU, attributes(), ReLU),
    "qcfs": Kind(QCFS, attributes("L"), NEURONS["qcfs"]),
    "spiking_max_pool": Kind(SpikingMaxPool, _spiking_max_pool, SpikingMaxPool),
    "spiking_readout": Kind(SpikingReadout, attributes("start"), SpikingReadout),
    "signed_if": Kind(SignedIF, attributes("levels"), SignedIF),
    "differential": Kind(Differential, attributes("levels"), Differential),
    "changes": Kind(Changes, attributes(), Changes),
    "bias_once": Kind(BiasOnce, attributes("channels"), BiasOnce),
    "delayed_readout": Kind(DelayedReadout, attributes("delay"), DelayedReadout),
    "differential_readout": Kind(DifferentialReadout, attributes(), DifferentialReadout),
}.items():
    MODULES.register(_name, _kind)
