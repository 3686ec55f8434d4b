"""The domain of a map: the values that its elements may have."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """Integers in {0, ..., largest}, or real numbers where ``largest`` is None."""

    largest: int | None

    def __str__(self) -> str:
        if self.largest is None:
            return "real"
        return "binary" if self.largest <= 1 else f"integer up to {self.largest}"

    def __add__(self, other: "Domain") -> "Domain":
        if self.largest is None or other.largest is None:
            return REAL
        return Domain(self.largest + other.largest)


REAL, BINARY = Domain(None), Domain(1)
