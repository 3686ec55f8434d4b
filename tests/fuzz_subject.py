"""What a reader that is given damaged files is made of, and the ways to damage a file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mutations import damaged_bytes, damaged_text, damaged_value

Damage = Callable[[Path, Random], None]


@dataclass(frozen=True)
class Subject:
    """A reader.

    Args:
        make: Writes sound files into a folder and names those that may be damaged.
        damage: Changes one of them.
        read: Reads the folder; raises nothing but errors of isospike. Gets the file that was damaged.
    """

    make: Callable[[Path], list[Path]]
    damage: Damage
    read: Callable[[Path, Path], object]


def in_bytes(path: Path, rng: Random) -> None:
    path.write_bytes(damaged_bytes(path.read_bytes(), rng))


def in_text(path: Path, rng: Random) -> None:
    damage = damaged_text(path.read_text(), rng)
    path.write_bytes(damage.encode("utf-8", "surrogatepass"))


def in_value(path: Path, rng: Random) -> None:
    """JSON, whole or a value per line."""
    if rng.random() < 0.2:
        in_bytes(path, rng)
    elif path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(damaged_value(json.loads(lines[place]), rng))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(damaged_value(json.loads(path.read_text()), rng)))


def either(*ways: Damage) -> Damage:
    return lambda path, rng: rng.choice(ways)(path, rng)
