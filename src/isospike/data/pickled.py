"""Reading pickled arrays of foreign files by a machine of our own, which knows no calls but those that make arrays.

Neither Python's unpickler nor numpy's ``__setstate__`` sees the file: both trust what they are given. The instructions
are those of ``pickletools``; what they build is numbers, texts, lists, tuples, mappings, and the stand-ins below.
"""

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isospike.errors import DataError
from isospike.limits import read_at_most
from isospike.text import brief

LARGEST_FILE = 512_000_000  # bytes; the largest of CIFAR's files has 155 million
MOST_STEPS = 2_000_000  # instructions; the same file has 250,000
# pickletools raises ValueError for what is damaged; an index or a key is missing where instructions make no sense.
DAMAGED = (ValueError, IndexError, KeyError)


@dataclass
class _Dtype:
    """Stands in for ``numpy.dtype``: plain numbers alone."""

    kind: str
    order: str = "|"

    def build(self, state: Any) -> None:
        """Take ``(version, byte order, subarray, names, fields, ...)``, as numpy writes it."""
        plain = isinstance(state, tuple) and len(state) >= 5 and state[2] is state[3] is state[4] is None
        order = _text(state[1]) if plain else ""
        if order not in ("|", "<", ">", "="):
            raise ValueError("a dtype in it is not that of plain numbers")
        self.order = order

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.kind)


@dataclass
class _Array:
    """Stands in for ``numpy.ndarray``: of plain numbers, and as large as what the file holds of it."""

    array: np.ndarray[Any, Any] | None = None

    def build(self, state: Any) -> None:
        """Take ``(version, shape, dtype, Fortran order, content)``, as numpy writes it."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array in it has another state than numpy gives to one")
        self.fill(state[4], state[2], state[1], "F" if state[3] is True else "C")

    def fill(self, content: Any, dtype: Any, shape: Any, order: str) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
            raise ValueError("an array in it is not one of plain numbers")
        if not isinstance(shape, tuple) or len(shape) > 32 or not all(_is_size(side) for side in shape):
            raise ValueError("an array in it has a shape that no array has")
        if math.prod(shape) * dtype.dtype.itemsize != len(content):
            raise ValueError(f"an array of {shape} {dtype.kind} in it does not fit its {len(content):,} bytes")
        self.array = np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _text(value: Any) -> str:
    """Return a text; names and texts come as bytes from Python 2."""
    return value.decode("latin1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


class _Machine:
    """Carries out the instructions of one pickle. Whatever makes no sense raises one of ``DAMAGED``."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.unencoded = len(content)  # characters that may still be encoded: those of the file, each once
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Run all instructions, and return what the file holds."""
        for step, (opcode, argument, _) in enumerate(pickletools.genops(self.content)):
            if step >= MOST_STEPS:
                raise ValueError(f"it has more than {MOST_STEPS:,} instructions")
            if opcode.name not in _STEPS:
                raise ValueError(f"it asks for {opcode.name}, which a data file may not")
            _STEPS[opcode.name](self, argument)
        return self.pop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes a value where there is none")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("it takes values where there are none")
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def top(self, kind: type) -> Any:
        """Return the value on top, which must be of this type."""
        value = self.pop()
        if not isinstance(value, kind):
            raise ValueError(f"it puts values into a {type(value).__name__}")
        self.push(value)
        return value

    def mark(self, argument: Any) -> None:
        self.marks.append(len(self.stack))

    def put(self, index: Any) -> None:
        value = self.pop()
        self.push(value)
        self.memo[index] = value

    def memoize(self, argument: Any) -> None:
        self.put(len(self.memo))

    def get(self, index: Any) -> None:
        if index not in self.memo:
            raise ValueError("it recalls a value that it never kept")
        self.push(self.memo[index])

    def python2_string(self, argument: Any) -> None:
        self.push(argument.encode("latin1"))  # pickletools has decoded it so

    def append(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError("it holds a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | bytes):
                raise ValueError(f"it holds a key that is a {type(key).__name__}")
            self.top(dict)[key] = value

    def mapping(self, argument: Any) -> None:
        items = self.pop_to_mark()
        self.push({})
        self.set_items(items)

    def last(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def named(self, module: str, name: str) -> None:
        """Put the name of a module on the stack; it stands for itself until it is called."""
        if (module, name) not in _NAMES:
            raise ValueError(f"it asks for {brief(f'{module}.{name}')}, which a data file may not")
        self.push(_NAMES[module, name])

    def global_(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self.named(module, name)

    def stack_global(self, argument: Any) -> None:
        module, name = self.last(2)
        self.named(_text(module), _text(name))

    def reduce(self, argument: Any) -> None:
        made, arguments = self.last(2)
        if not isinstance(made, _Name) or made.call is None or not isinstance(arguments, tuple):
            raise ValueError("it calls what is not to be called")
        self.push(made.call(self, *arguments[:4], *[None] * (4 - len(arguments))))

    def build(self, argument: Any) -> None:
        built, state = self.last(2)
        if not isinstance(built, _Array | _Dtype):
            raise ValueError(f"it gives a state to a {type(built).__name__}")
        built.build(state)
        self.push(built)

    # What the names of numpy stand for; each takes four arguments, None where the file gives fewer.

    def new_array(self, kind: Any, shape: Any, code: Any, none: Any) -> _Array:
        return _Array()

    def new_dtype(self, code: Any, align: Any, copy: Any, none: Any) -> _Dtype:
        kind = re.fullmatch(r"(b1|[iu][1248]|f[248])", _text(code))
        if kind is None:
            raise ValueError("a dtype in it is not that of plain numbers")
        return _Dtype(kind[0])

    def buffered_array(self, content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        made = _Array()
        made.fill(content, dtype, shape, _text(order))
        return made

    def latin1(self, text: Any, codec: Any, none: Any, nor: Any) -> bytes:
        """Make bytes from the text as which Python 3 writes them for Python 2."""
        if _text(codec) != "latin1" or not isinstance(text, str):
            raise ValueError("it asks for another codec than latin1")
        self.unencoded -= len(text)
        if self.unencoded < 0:
            raise ValueError("it encodes more text than it holds")
        return text.encode("latin1")


@dataclass(frozen=True)
class _Name:
    call: Callable[[_Machine, Any, Any, Any, Any], Any] | None


# All that CIFAR files name, the original ones and those that Python 3 wrote anew.
# Anything else is a call that a data file has no business to make.
_NAMES: dict[tuple[str, str], _Name] = {
    ("numpy", "ndarray"): _Name(None),
    ("numpy", "dtype"): _Name(_Machine.new_dtype),
    ("_codecs", "encode"): _Name(_Machine.latin1),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Name(_Machine.new_array) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Name(_Machine.buffered_array) for core in ("core", "_core")},
}

_Step = Callable[[_Machine, Any], None]
_STEPS: dict[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, argument: None),
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
         "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        _Machine.push,
    ),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.python2_string),
    "NONE": lambda machine, argument: machine.push(None),
    "NEWTRUE": lambda machine, argument: machine.push(True),
    "NEWFALSE": lambda machine, argument: machine.push(False),
    "MARK": _Machine.mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "EMPTY_LIST": lambda machine, argument: machine.push([]),
    "LIST": lambda machine, argument: machine.push(machine.pop_to_mark()),
    "APPEND": lambda machine, argument: machine.append(machine.last(1)),
    "APPENDS": lambda machine, argument: machine.append(machine.pop_to_mark()),
    "EMPTY_TUPLE": lambda machine, argument: machine.push(()),
    "TUPLE": lambda machine, argument: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, argument: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, argument: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, argument: machine.push(tuple(machine.last(3))),
    "EMPTY_DICT": lambda machine, argument: machine.push({}),
    "DICT": _Machine.mapping,
    "SETITEM": lambda machine, argument: machine.set_items(machine.last(2)),
    "SETITEMS": lambda machine, argument: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}  # fmt: skip


def read_arrays(path: Path) -> dict[str, Any]:
    """Read the mapping in a pickled file of Python 2 or 3: text to numpy arrays that are not to be written.

    Raises:
        DataError: no such file, damaged, not a mapping, or it names anything but arrays of plain numbers.
    """
    try:
        content = _Machine(read_at_most(path, LARGEST_FILE)).run()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except DAMAGED as error:
        raise DataError(f"{path} was not read as pickled arrays: {brief(str(error), 200)}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a mapping with 'data' and labels, not a {type(content).__name__}")
    arrays = {key: value.array if isinstance(value, _Array) else value for key, value in content.items()}
    return {key if isinstance(key, str) else key.decode("ascii", "replace"): value for key, value in arrays.items()}
