"""A trained ANN of anybody as a network of this package: captured and compared, or refused call by call."""

import inspect
import linecache
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from isospike.conversion.advice import advice_for
from isospike.conversion.builder import Builder, Map, Row, Strided, Unsupported
from isospike.conversion.checks import check_ann
from isospike.conversion.exported import export
from isospike.conversion.modules import call_of, is_in_place
from isospike.conversion.norms import as_batch_norm, is_norm_like
from isospike.conversion.patterns import PATTERNS
from isospike.conversion.trace import trace
from isospike.errors import ConfigError
from isospike.graph import modules_of, record_network
from isospike.models import ProgramNet, SpikingNetwork
from isospike.text import brief

# What torch.fx raises where it cannot trace, and Python where a proxy is taken for a number or a tensor.
UNTRACEABLE = (fx.proxy.TraceError, AssertionError, NameError, RuntimeError, TypeError)
ROUNDING = 1e-9  # relative, of float64: another order of sums makes less


@dataclass(frozen=True)
class Problem:
    """A call that no converted network makes.

    Args:
        place: File and line, where they are known.
        code: That line.
        call: Name of the function, or of the module and its class.
        advice: What to do instead.
    """

    place: str
    code: str
    call: str
    advice: str

    def __str__(self) -> str:
        return f"{self.place}: {self.call}{f' in `{self.code}`' if self.code else ''}: {self.advice}"


class Uncapturable(ConfigError):
    """An ANN makes calls that no converted network makes; ``problems`` has all of them."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        calls = "call" if len(problems) == 1 else f"{len(problems)} calls"
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(
            f"this {name} cannot be converted because of its {calls} that no spiking network makes:{lines}"
        )
        self.problems = problems


def capture(module: nn.Module, example: Tensor) -> ProgramNet:
    """Capture the ANN as a network that is nothing but its program, with copies of its weights.

    It is compared with the ANN on the example, in float64, before it is handed out.

    Args:
        module: A trained ANN in eval mode, ``[B, C, H, W]`` to logits ``[B, classes]``; or an ANN of this package.
        example: Images ``[B, C, H, W]``, normalised as in training; two of them are used.

    Returns:
        In eval mode, of the module's precision, with T=1.

    Raises:
        Uncapturable: it makes calls that no converted network makes; all of them are listed, with their lines.
        ConfigError: it is in training mode, a norm has no statistics, weights are not finite, it gives no logits, or
            what it does depends on numbers in a map.
    """
    check_ann(module)
    if isinstance(module, SpikingNetwork):
        return as_program(module)
    weight = next(module.parameters())
    ann, few = deepcopy(module).double(), _two_of(example).to(weight.device, torch.float64)
    expected = _answer(ann, few)
    if not isinstance(expected, Tensor) or expected.dim() != 2:
        given = f"a tensor {list(expected.shape)}" if isinstance(expected, Tensor) else f"a {type(expected).__name__}"
        raise ConfigError(
            f"an ANN to convert gives logits [B, classes], and this {type(module).__name__} gives {given}"
        )
    net = _network(ann, few)
    _check_same(net, few, expected, type(module).__name__)
    return net.to(weight.dtype)


@torch.no_grad()
def _answer(ann: nn.Module, images: Tensor) -> Any:
    try:
        return ann(images.clone())
    except RuntimeError as error:
        shape = f"[B, {', '.join(map(str, images.shape[1:]))}]"
        raise ConfigError(
            f"this {type(ann).__name__} does not take the calibration images, which are {shape}: {brief(str(error))}"
        ) from error


def as_program(network: SpikingNetwork) -> ProgramNet:
    """Copy a network of this package into one that is nothing but its program."""
    copied = deepcopy(network)
    names = {module: name for name, module in copied.named_modules()}
    program = record_network(copied)
    modules = {names[module]: module for module in modules_of(program)}
    return ProgramNet(program, modules, T=network.T, least_size=network.least_size).train(network.training)


def _network(ann: nn.Module, images: Tensor) -> ProgramNet:
    """Write a network down from the calls that the ANN makes."""
    norms = {m: norm for m in ann.modules() if is_norm_like(m) and (norm := as_batch_norm(m)) is not None}
    try:
        graph = trace(ann, images, norms)
    except UNTRACEABLE as error:
        graph = export(ann, images, error)
    walk = _Walk(ann, norms, Builder(tuple(images.shape)))
    logits = walk.through(graph)
    if walk.problems:
        raise Uncapturable(type(ann).__name__, walk.problems)
    return walk.builder.network(logits)


class _Walk:
    """Through the calls of an ANN, in their order, each written down or noted as a problem."""

    def __init__(self, ann: nn.Module, norms: dict[nn.Module, Any], builder: Builder) -> None:
        self.ann, self.norms, self.builder = ann, norms, builder
        self.seen: dict[fx.Node, Any] = {}
        self.layers: dict[str, nn.Module] = {}  # with weights, by the name of the module that they are of
        self.problems: list[Problem] = []

    def through(self, graph: fx.Graph) -> Any:
        """Write all calls down, and return what the ANN gives."""
        for node in graph.nodes:
            if node.op == "output":
                (self.seen[node],) = self._values(node.args[0] if isinstance(node.args[0], tuple) else node.args)
                return self.seen[node]
            self.seen[node] = self._one(node)
        raise AssertionError("a graph ends with its output")

    def _one(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return node.meta.get("tensor", self.builder.input) if node.meta.get("shape") else None
        if node.op == "get_attr":
            return _attribute(self.ann, str(node.target))
        args, kwargs = self._values(node.args), self._values(node.kwargs)
        if not any(isinstance(part, Map | Row | Strided) for part in _leaves(args, kwargs)):
            return _computed(node, args, kwargs)
        self.builder.name = str(node.target) if node.op == "call_module" else node.name
        self.builder.shape = node.meta["shape"]
        try:
            out = self._written(node, args, kwargs)
        except Unsupported as error:
            self.problems.append(_problem(self.ann, node, str(error)))
            return self.builder.unknown()
        if _writes_in_place(self.ann, node):
            self.seen.update({other: out for other, value in self.seen.items() if value is args[0]})
        return out

    def _written(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.builder.shape is None:
            raise Unsupported(advice_for(_call_name(self.ann, node)))
        if node.op != "call_module":
            return self._pattern(_call_name(self.ann, node), args, kwargs)
        name, module = str(node.target), self.ann.get_submodule(str(node.target))
        if name in self.layers:
            return self.builder.call_again(_settled(self.builder, args[0]), self.layers[name])
        before = len(self.builder.modules)
        if module in self.norms:
            out = self.builder.call(_settled(self.builder, args[0]), self.norms[module])
        else:
            call = call_of(module)
            if call is None:
                raise Unsupported(advice_for(type(module).__name__))
            out = self._pattern(call[0], (*args, *call[1]), kwargs)
        if next(module.parameters(), None) is not None and len(self.builder.modules) > before:
            self.layers[name] = list(self.builder.modules.values())[-1]
        return out

    def _pattern(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pattern = PATTERNS.get(name) or PATTERNS.get(name.removeprefix("aten::"))
        if pattern is None:
            raise Unsupported(advice_for(name.removeprefix("aten::")))
        if Row not in pattern.takes and any(isinstance(part, Row) for part in _leaves(args, kwargs)):
            raise Unsupported("it reads pixels in a row: put it before the pool, on [B, C, H, W]")
        if Strided not in pattern.takes:
            args = tuple(_settled(self.builder, arg) for arg in args)
        try:
            bound = inspect.signature(pattern.write).bind(self.builder, *args, **kwargs)
        except TypeError as error:
            raise Unsupported(f"these arguments are not known ({error})") from error
        return pattern.write(*bound.args, **bound.kwargs)

    def _values(self, args: Any) -> Any:
        return map_arg(args, lambda node: self.seen[node])


def _computed(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute what a call gives that reads numbers and weights alone."""
    with torch.no_grad():
        if isinstance(node.target, str):
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)


def _settled(builder: Builder, x: Any) -> Any:
    """Take the pixels that were only to be taken by a layer of their own."""
    return builder.shortcut(x) if isinstance(x, Strided) else x


def _leaves(*parts: Any) -> list[Any]:
    """Return all that is in tuples, lists and mappings."""
    found: list[Any] = []
    for part in parts:
        if isinstance(part, tuple | list):
            found += _leaves(*part)
        elif isinstance(part, dict):
            found += _leaves(*part.values())
        else:
            found.append(part)
    return found


def _attribute(ann: nn.Module, name: str) -> Any:
    *path, last = name.split(".")
    return getattr(ann.get_submodule(".".join(path)), last)


def _call_name(ann: nn.Module, node: fx.Node) -> str:
    """Name the function, the method, ATen's operator with its prefix, or the class of the module."""
    if node.op == "call_module":
        return type(ann.get_submodule(str(node.target))).__name__
    if isinstance(node.target, str):
        return node.target
    schema = getattr(node.target, "_schema", None)
    return schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))


def _writes_in_place(ann: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return is_in_place(ann.get_submodule(str(node.target)))
    name = _call_name(ann, node)
    return name in ("iadd", "imul") or (name.endswith("_") and name[-2:] != "__") or node.kwargs.get("inplace") is True


def _problem(ann: nn.Module, node: fx.Node, advice: str) -> Problem:
    source, call = node.meta.get("source"), _call_name(ann, node).removeprefix("aten::")
    if node.op == "call_module":
        call = f"{node.target} ({call})"
    if source is None:
        return Problem("in the network", "", call, advice)
    file, line = source
    return Problem(f"{Path(file).name}, line {line}", linecache.getline(file, line).strip(), call, advice)


def _two_of(example: Tensor) -> Tensor:
    """Return two images, so that nothing is fixed to one."""
    if not isinstance(example, Tensor) or example.dim() != 4 or not len(example):
        given = list(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise ConfigError(f"an ANN is captured on images [B, C, H, W], got {given}")
    return torch.cat([example[:1], example[-1:].flip(-1)])


def _check_same(net: ProgramNet, images: Tensor, expected: Tensor, name: str) -> None:
    """Refuse a network that does something else than the ANN: a hook, or a number in a map, had a say in that."""
    with torch.no_grad():
        difference = float((net(images) - expected).abs().max())
    if not difference <= ROUNDING * max(1.0, float(expected.abs().max())):
        raise ConfigError(
            f"what was captured of this {name} gives other logits, by up to {difference:.2g}: a hook, a forward that "
            "depends on the numbers in a map, or one that draws at random cannot be converted"
        )
