"""Named rows, and the answer to a wrong name: the nearest right ones."""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from isospike.errors import ConfigError, UnknownName
from isospike.text import brief

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name. A name is given once; a wrong one is answered with the nearest."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._items: dict[str, T] = {}
        self._aliases: dict[str, T] = {}

    def register(self, name: str, item: T, *, aliases: Iterable[str] = ()) -> T:
        """Give ``item`` its name and return it; ``aliases`` are understood as well, and not listed.

        Raises:
            ValueError: a name is taken.
        """
        for given in (name, *aliases):
            if given in self:
                raise ValueError(f"{self.what} '{given}' is registered twice")
        self._items[name] = item
        self._aliases.update(dict.fromkeys(aliases, item))
        return item

    @property
    def aliases(self) -> dict[str, str]:
        """Every alias, and the name that it stands for."""
        names = {id(item): name for name, item in self._items.items()}
        return {alias: names[id(item)] for alias, item in self._aliases.items()}

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise unknown_name(self.what, name, self._items)
        return self._items[name] if name in self._items else self._aliases[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def unknown_name(what: str, name: str, names: Iterable[str]) -> UnknownName:
    """Return the error for ``name``: the nearest of ``names``, or all of them where none is near and they are few."""
    names = list(names)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
    if near:
        hint = "nearest: " + ", ".join(near)
    elif len(names) <= 12:
        hint = "choose from: " + ", ".join(names)
    else:
        hint = f"none of the {len(names)} known names is near"
    return UnknownName(f"unknown {what} '{brief(str(name))}'; {hint}")


def check_options(what: str, factory: Callable[..., Any], options: Iterable[str]) -> None:
    """Refuse an option that ``factory`` does not take; one that takes ``**options`` checks them itself.

    Args:
        what: Who takes the options, for the reader.
        factory: The function.
        options: Their names.

    Raises:
        UnknownName: with the nearest option that there is.
    """
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        check_known(what, parameters, options)


def check_known(
    what: str, known: Collection[str], options: Iterable[str], habits: Mapping[str, str] | None = None
) -> None:
    """Refuse an option that is not known.

    Args:
        what: Who takes the options, for the reader.
        known: The names that there are.
        options: The names that are given.
        habits: By the name that an option has elsewhere, what does it here, as the end of a sentence.

    Raises:
        UnknownName: with what does it here, or the nearest option that there is.
    """
    for option in options:
        if option not in known and habits and option in habits:
            raise UnknownName(f"unknown option of {what} '{option}': {habits[option]}")
        if option not in known:
            raise unknown_name(f"option of {what}", option, known)


def build(registry: Registry[Any], spec: str | Mapping[str, Any]) -> Any:
    """Build from a name, or from a mapping ``{"kind": name, option: value, ...}``.

    Raises:
        UnknownName: no such kind, or the kind has no such option.
        ConfigError: the mapping names no kind.
    """
    options = {"kind": spec} if isinstance(spec, str) else dict(spec)
    if "kind" not in options:
        raise ConfigError(f"a {registry.what} is given as a name or as {{kind: name, ...}}, got {dict(options)}")
    kind = options.pop("kind")
    factory = registry[kind]
    check_options(f"{registry.what} '{kind}'", factory, options)
    return factory(**options)
