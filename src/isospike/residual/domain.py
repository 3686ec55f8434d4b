"""The domain of a map: the values that its elements may have."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """Integers in {0, ..., largest}, real numbers where ``largest`` is None; ``signed`` ones may be negative too."""

    largest: int | None
    signed: bool = False

    def __str__(self) -> str:
        if self.largest is None:
            return "real"
        if self.signed:
            return f"integer of at most {self.largest} with a sign"
        return "binary" if self.largest <= 1 else f"integer up to {self.largest}"

    def __add__(self, other: "Domain") -> "Domain":
        if self.largest is None or other.largest is None:
            return REAL
        return Domain(self.largest + other.largest, self.signed or other.signed)

    @property
    def bits(self) -> int | None:
        """What a number of it takes; None for a real one."""
        return None if self.largest is None else self.largest.bit_length() + self.signed


REAL, BINARY = Domain(None), Domain(1)
