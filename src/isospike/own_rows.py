"""Rows of one's own: code that registers neurons, surrogates, topologies or data, from a file or an installed package.

A run says which code it was made with, by name and hash. That code is never imported because a file says so: a run
folder may come from anybody, and reading one must not run what is in it. So whoever goes on with such a run names the
code again. What a package offers under ``isospike.rows`` is different: who installed it has agreed to run it.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from isospike.errors import ConfigError, IsospikeError, IsospikeWarning
from isospike.registry import unknown_name

GROUP = "isospike.rows"  # of entry points

_IMPORTED: dict[str, ModuleType] = {}  # by the name that the code was given by


def import_rows(sources: Iterable[str] | None) -> None:
    """Import code that registers rows; what was imported already is left as it is.

    Args:
        sources: A path that ends in ``.py``, or the name of a module, for each. A file becomes the module of its name,
            and may import its neighbours.

    Raises:
        ConfigError: there is no such file or module, its name belongs to another module, or it fails: names the line,
            and holds the traceback as a note.
    """
    for source in sources or ():
        _IMPORTED[source] = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)


def load_function(source: str) -> Callable[..., Any]:
    """Find a function in a file of one's own, which runs that file; nothing remembers it as ``import_rows`` does.

    Args:
        source: ``FILE.py:function``.

    Raises:
        ConfigError: there is no such file or function, or the file fails: names the line, and holds the traceback.
    """
    file, _, name = source.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"a function in a file is named as FILE.py:function, got '{source}'")
    module = _import_file(Path(file))
    found = getattr(module, name, None)
    if not callable(found):
        raise unknown_name(f"function in {file}", name, [n for n, f in vars(module).items() if inspect.isfunction(f)])
    return cast(Callable[..., Any], found)


def call_function(source: str) -> Any:
    """Call a function of ``load_function`` without arguments.

    Raises:
        ConfigError: as ``load_function``, or the call fails: names the line, and holds the traceback.
    """
    function = load_function(source)
    try:
        return function()
    except Exception as error:  # of code that is not ours
        raise _failure(error) from error


def imported() -> dict[str, str]:
    """Return what ``import_rows`` has imported in this process: its name, and the SHA-256 of its file."""
    return {source: _digest(module) for source, module in _IMPORTED.items()}


def imports_again() -> str:
    """Return the options that name the imported code once more, for the end of a command."""
    return import_options(_IMPORTED)


def import_options(sources: Iterable[str]) -> str:
    """Return the options that name this code, for the end of a command."""
    return "".join(f" --import {shlex.quote(source)}" for source in sources)


def check_imported(wanted: object, origin: str) -> None:
    """Refuse to go on where ``origin`` was made with code that this process has not imported, by whatever means.

    Args:
        wanted: What ``imported`` was then; anything but a mapping is left to the check of the configuration.
        origin: What was made with it.

    Raises:
        ConfigError: names the code.
    """
    for source, digest in wanted.items() if isinstance(wanted, Mapping) else ():
        module = sys.modules.get(_module_name(str(source)))
        if module is None:
            raise ConfigError(
                f"{origin} was made with code of its own, and isospike runs none because a file names it: if you trust "
                f"{source}, give --import {source}, or in Python import it first"
            )
        if _digest(module) != digest:
            _say_once(f"{source} has changed since {origin} was made with it")


@cache
def import_installed() -> dict[str, str]:
    """Import what installed packages offer as entry points of ``isospike.rows``.

    Returns:
        Names and versions of these packages.

    Raises:
        ConfigError: one fails; names its package.
    """
    packages = {}
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            raise ConfigError(
                f"the package '{_package(point)}' offers rows in {point.value}, and importing them fails: "
                f"{type(error).__name__}: {error}; mend or uninstall it"
            ) from error
        packages[_package(point)] = point.dist.version if point.dist else ""
    return packages


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.name


def _module_name(source: str) -> str:
    return Path(source).stem if source.endswith(".py") else source


def _import_file(path: Path) -> ModuleType:
    """Import a file as the module of its name, found by that name from now on, also by spawned processes."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path} to import")
    if not path.stem.isidentifier():
        raise ConfigError(f"{path} cannot be a module, as '{path.stem}' is no name of Python: rename it, as my_rows.py")
    owner = _owner(path.stem)
    if owner is not None and owner != str(path.resolve()):
        raise ConfigError(f"{path} would be the module '{path.stem}', which {owner} is already: rename the file")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)  # at the end, where it hides nothing
        importlib.invalidate_caches()
    return _import(path.stem)


def _import_module(name: str) -> ModuleType:
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise ConfigError(f"--import takes a file that ends in .py or the name of a module, got '{name}'")
    return _import(name)


def _owner(name: str) -> str | None:
    """Return the file that this module name leads to, or what else it is; None where it is free."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # of a module without a specification, as __main__ may be
        return "another module"
    if spec is None:
        return None
    return str(Path(spec.origin).resolve()) if spec.has_location and spec.origin else "a part of Python"


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failure(error) from error
        hint = f": for the file of this name, give {name}.py" if Path(f"{name}.py").is_file() else ""
        raise ConfigError(f"there is no module '{name}' to import{hint}") from error
    except Exception as error:
        raise _failure(error) from error


def _failure(error: Exception) -> ConfigError:
    """Return where in the imported code an error is from, in a sentence, with the traceback from there on as a note."""
    if isinstance(error, SyntaxError):
        return ConfigError(f"{error.filename}, line {error.lineno}: {error.msg}")
    frames = traceback.extract_tb(error.__traceback__)
    own = next((n for n, frame in enumerate(frames) if not _is_importing(frame.filename)), len(frames) - 1)
    file = frames[own].filename
    line = [frame.lineno for frame in frames if frame.filename == file][-1]
    if isinstance(error, IsospikeError):
        return ConfigError(f"{file}, line {line}: {error}")
    failure = ConfigError(f"{file}, line {line}: {type(error).__name__}: {error}")
    failure.add_note("".join([*traceback.format_list(frames[own:]), *traceback.format_exception_only(error)]).rstrip())
    return failure


def _is_importing(file: str) -> bool:
    return file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")


def _digest(module: ModuleType) -> str:
    """Return the SHA-256 of its file; "" where there is none."""
    return hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest() if module.__file__ else ""


@cache
def _say_once(text: str) -> None:
    warnings.warn(text, IsospikeWarning, stacklevel=3)
