"""Mean and variance per channel, and how two of them make one."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Mean and unbiased variance ``[C]`` of ``count`` values per channel; ``count`` may be a 0-d tensor."""

    count: int | Tensor
    mean: Tensor
    var: Tensor

    def join(self, other: "Statistics") -> "Statistics":
        """The statistics of both sets of values as one (Chan et al. 1979)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        squares = self.var * (self.count - 1) + other.var * (other.count - 1)
        squares = squares + delta.square() * (self.count * other.count / count)
        return Statistics(count, self.mean + delta * (other.count / count), squares / (count - 1))
