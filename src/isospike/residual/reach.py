"""Which earlier stages feed a stage, and how several terms become one.

Source: our reading of Li et al. 2023 (DANet), arXiv:2311.05171, whose full text was not available; the links at the
end of a stage are those of a public port to one dimension.
"""

from dataclasses import dataclass

from isospike.registry import Registry


@dataclass(frozen=True)
class Reach:
    """Which earlier outputs are linked to a stage. Output 0 is the stem's, output s that of stage s = 1, 2, ...

    Args:
        name: As in ``reach=`` of ``create_model``.
        first: The first output that is linked.
        last: The last one, counted from the stage's own: 0 is its own, -1 that of the stage before; None: no links.
        at_end: Whether they are added to the stage's output, or else behind its first unit, from where they reach
            every further unit of the stage.
        words: Words of a link.
    """

    name: str
    first: int = 0
    last: int | None = None
    at_end: bool = True
    words: str = "conv norm spike"

    @property
    def links(self) -> bool:
        """Whether there are any links."""
        return self.last is not None

    def sources(self, stage: int) -> range:
        """Return the outputs that are linked to ``stage``, counted from 1."""
        return range(0) if self.last is None else range(self.first, stage + self.last + 1)


@dataclass(frozen=True)
class Combine:
    """How n terms become one: ``factor(n)`` times their sum.

    Args:
        name: As in ``combine=`` of ``create_model``.
        power: The factor is ``n ** power``.
        learned: Whether every term also has a learnable weight that starts at 1.
    """

    name: str
    power: float = 0.0
    learned: bool = False

    @property
    def changes_sum(self) -> bool:
        """Whether it is anything but the plain sum."""
        return self.power != 0 or self.learned

    def factor(self, n: int) -> float:
        """Return the factor of a sum of n terms."""
        return float(n**self.power)


REACHES: Registry[Reach] = Registry("reach")
COMBINES: Registry[Combine] = Registry("combine")

for _reach in (
    Reach("stage"),
    Reach("fusion", first=0, last=0),
    Reach("fusion_distant", first=0, last=-2),
    Reach("global", first=1, last=-1, at_end=False, words="pool conv norm"),
):
    REACHES.register(_reach.name, _reach)
for _combine in (Combine("sum"), Combine("rsqrt", -0.5), Combine("mean", -1.0), Combine("learned", learned=True)):
    COMBINES.register(_combine.name, _combine)
