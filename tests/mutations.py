"""Damage of every kind, the same for the same generator: to bytes, to text, and to values of JSON."""

import copy
import json
from random import Random
from typing import Any

ODD_VALUES = (
    None, True, -1, 0, 1.5, 2**70, 1e308, float("nan"), float("inf"), "", "x", "\x00\ud800", "</script>", [], {}, [[]],
    [None], {"": None}, ["x", 1], {"kind": []}, -(2**31), "1e999", [[[[[[1]]]]]], {"a": {"b": {"c": [1, "x", None]}}},
)  # fmt: skip
ODD_TEXT = (
    "\0", "\ufeff", "\x85", "&a [*a]", "*a", "!!bool x", "!!python/none", "- ", "? ", ": ", "{", "[", "<<: *a", "---\n",
    "'", '"', "0x", "0b_", "1:60", ".inf", ".nan", "~", "2024-99-99", "%YAML 9\n", "\t", "#", "|", ">", "@", "`",
    "[" * 200, "9" * 5000, "a: &a [x, x]\n", "\n", "\ud800", "é" * 50,
)  # fmt: skip


def damaged_bytes(content: bytes, rng: Random) -> bytes:
    """One to four changes of a bit, a byte or a stretch."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(changed, rng)
    return bytes(changed)


def _change(content: bytearray, rng: Random) -> None:
    start = rng.randrange(len(content) + 1) if rng.random() < 0.5 else rng.randrange(min(len(content), 200) + 1)
    stretch = rng.randrange(1, 1 + rng.choice((1, 8, 64, 1000)))
    kind = rng.randrange(7)
    if kind == 0 and content:
        content[start % len(content)] ^= 1 << rng.randrange(8)
    elif kind == 1 and content:
        content[start % len(content)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == 2:
        del content[start : start + stretch]
    elif kind == 3:
        content[start:start] = rng.randbytes(stretch)
    elif kind == 4:
        content[start : start + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
    elif kind == 5:
        content[start:start] = content[start : start + stretch] * rng.choice((1, 3))
    else:
        del content[start:]


def damaged_text(text: str, rng: Random) -> str:
    """Odd pieces put in or over, lines doubled or moved."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(text) + 1)
        if rng.random() < 0.7:
            text = text[:at] + rng.choice(ODD_TEXT) + text[at + rng.choice((0, 0, 1, 5)) :]
        else:
            lines = text.split("\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            text = "\n".join(lines)
    return text


def damaged_value(value: Any, rng: Random) -> Any:
    """The same JSON with one to three of its values replaced, left out, doubled or put elsewhere."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = _replace(value, rng)
    return value


def _replace(value: Any, rng: Random) -> Any:
    """Goes down to a random place, less likely the deeper it is."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.12:
        return copy.deepcopy(rng.choice(ODD_VALUES))  # it may be damaged in its turn
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    kind = rng.random()
    if kind < 0.12:
        del value[key]
    elif kind < 0.18 and isinstance(value, list):
        value.append(value[key])
    elif kind < 0.18:
        value[rng.choice(("", "x", "name", "kind", "\x00", "a\nb"))] = value[key]
    else:
        value[key] = _replace(value[key], rng)
    return value
