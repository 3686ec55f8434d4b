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


@dataclass
class _Extent:
    """How many values a node stands for, and how deep they lie."""

    values: int = 1
    depth: int = 1

    def add(self, inner: "_Extent") -> None:
        self.values += inner.values
        self.depth = max(self.depth, 1 + inner.depth)


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-4`` is a number, as in YAML 1.2, dates are text, and a key given twice is an error.

    Every event is looked at before a tree is made of it, and the whole tree is there before a value is, so that what
    would take long or never end is refused before it is built.
    """

    def __init__(self, text: str, origin: str) -> None:
        super().__init__(text)
        self._origin = origin
        self._open: list[tuple[_Extent, str | None]] = [(_Extent(0, 0), None)]
        self._known: dict[str | None, _Extent] = {}

    def get_event(self) -> Any:
        """Return the next event, which the composer takes once.

        Raises:
            ConfigError: the text holds too much.
            yaml.YAMLError: it is not YAML.
        """
        event = super().get_event()
        if isinstance(event, yaml.CollectionEndEvent):
            self._close(*self._open.pop())
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._known:
                raise self._refusal("an alias stands for nothing before it, or for itself", event)
            self._open[-1][0].add(self._known[event.anchor])
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.tag is not None:
                raise self._refusal("tags are not read: write the plain value, in quotes where it is text", event)
            if isinstance(event, yaml.ScalarEvent):
                self._close(_Extent(), event.anchor)
            else:
                self._open.append((_Extent(), event.anchor))
        if sum(extent.values for extent, _ in self._open) > MOST_VALUES:
            raise self._refusal(f"there are more than {MOST_VALUES:,} values", event)
        if len(self._open) + self._open[-1][0].depth > DEEPEST + 1:
            raise self._refusal(f"values lie more than {DEEPEST} levels deep", event)
        return event

    def _close(self, node: _Extent, anchor: str | None) -> None:
        self._open[-1][0].add(node)
        if anchor is not None:
            self._known[anchor] = node

    def _refusal(self, problem: str, event: Any) -> ConfigError:
        return _refusal(problem, self._origin, event.start_mark)

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
        return _Loader(text, origin).get_single_data()
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


def _refusal(problem: str, origin: str, mark: Any) -> ConfigError:
    line = f", line {mark.line + 1}" if mark else ""
    return ConfigError(f"{origin}{line}: {brief(problem, 200)}")
