"""Quantities in words, and foreign text in sentences of ours."""

from collections.abc import Iterable


def duration(seconds: float) -> str:
    """Return the two largest units: "2 h 05 min", "3 min 09 s", "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def energy_unit(millijoules: Iterable[float]) -> tuple[str, float]:
    """Return one unit for all of these, by the largest of them, and how many of it are a millijoule: ("uJ", 1000)."""
    largest = max(millijoules, default=0.0)
    if largest >= 1:
        return "mJ", 1.0
    return ("uJ", 1e3) if largest >= 1e-3 else ("nJ", 1e6)


def brief(text: str, most: int = 100) -> str:
    """Shorten text out of a foreign file, on one line and no longer than ``most`` characters, for an error."""
    line = "".join(c if c.isprintable() else " " for c in text[: most + 1]).strip()
    return line if len(text) <= most else f"{line[:most]}..."
