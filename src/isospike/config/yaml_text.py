"""YAML as configurations have it: plain values, no tags, no more than a configuration needs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from isospike.errors import ConfigError
from isospike.limits import read_at_most
from isospike.text import brief

LARGEST_FILE = 200_000  # bytes; the largest recipe has 2,000
MOST_VALUES = 20_000  # with everything counted that an alias stands for
DEEPEST = 32


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-4`` is a number, as in YAML 1.2, dates are text, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", name.start_mark)
            if name.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{brief(name.value)}' stands twice", node.start_mark
                )
            seen.add(name.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Read a number, or refuse a text such as ``0b_`` that PyYAML takes for one and Python cannot make."""
        construct = self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float
        try:
            number: int | float = construct(node)
        except (ValueError, OverflowError):
            number = 2**65
        if isinstance(number, int) and number.bit_length() > 64:
            problem = f"'{brief(node.value)}' is no number of at most 64 bits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return number


for kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _Loader.construct_number)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, origin: str) -> Any:
    """Return the value in ``text``.

    Raises:
        ConfigError: not YAML, or more than a configuration may hold: a tag, an alias of itself, ``MOST_VALUES``
            values, ``DEEPEST`` levels; names ``origin`` and the line.
    """
    try:
        _check_events(text, origin)
        return yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise _refusal(error.problem or "this is not YAML", origin, error.problem_mark) from error
    except yaml.reader.ReaderError as error:
        found = f"character {error.position + 1} of the text is #x{error.character:04x}"
        raise ConfigError(f"{origin}: {found}, which may not stand in YAML") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, or more than a configuration may hold.
    """
    try:
        text = read_at_most(path, LARGEST_FILE).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold keys and values, as 'seed: 0', not a {type(value).__name__}")
    return value


@dataclass
class _Extent:
    """How many values a node stands for, and how deep they lie."""

    values: int = 1
    depth: int = 1

    def add(self, inner: "_Extent") -> None:
        self.values += inner.values
        self.depth = max(self.depth, 1 + inner.depth)


def _check_events(text: str, origin: str) -> None:
    """Refuse what would take long or never end when it is built; the parser of events itself keeps no tree.

    Raises:
        ConfigError: the text holds too much.
        yaml.YAMLError: it is not YAML.
    """
    open_nodes: list[tuple[_Extent, str | None]] = [(_Extent(0, 0), None)]
    known: dict[str | None, _Extent] = {}
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionEndEvent):
            _close(*open_nodes.pop(), open_nodes[-1][0], known)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise _refusal("an alias stands for nothing before it, or for itself", origin, event.start_mark)
            open_nodes[-1][0].add(known[event.anchor])
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.tag is not None:
                problem = "tags are not read: write the plain value, in quotes where it is text"
                raise _refusal(problem, origin, event.start_mark)
            if isinstance(event, yaml.ScalarEvent):
                _close(_Extent(), event.anchor, open_nodes[-1][0], known)
            else:
                open_nodes.append((_Extent(), event.anchor))
        if sum(extent.values for extent, _ in open_nodes) > MOST_VALUES:
            raise _refusal(f"there are more than {MOST_VALUES:,} values", origin, event.start_mark)
        if len(open_nodes) + open_nodes[-1][0].depth > DEEPEST + 1:
            raise _refusal(f"values lie more than {DEEPEST} levels deep", origin, event.start_mark)


def _close(node: _Extent, anchor: str | None, parent: _Extent, known: dict[str | None, _Extent]) -> None:
    parent.add(node)
    if anchor is not None:
        known[anchor] = node


def _refusal(problem: str, origin: str, mark: Any) -> ConfigError:
    line = f", line {mark.line + 1}" if mark else ""
    return ConfigError(f"{origin}{line}: {brief(problem, 200)}")
