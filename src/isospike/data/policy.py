"""RandAugment and AutoAugment, through kornia.

Kornia draws one operation for a whole batch. Here every image draws its own, as in the papers: the images of a batch
are grouped by what they drew, and kornia works on the groups.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from isospike.data.transfer import to_device
from isospike.optional import import_optional
from isospike.spec import Spec

Operation = Callable[[Tensor], Tensor]


class Policy:
    """Applies ``rounds`` operations to every image of a uint8 batch, each drawn from ``operations``."""

    def __init__(self, operations: Sequence[Operation], rounds: int) -> None:
        self.operations, self.rounds = operations, rounds

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Map uint8 to uint8 of the same shape; what kornia draws by itself is seeded from ``rng``."""
        x = images.float() / 255
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(int(rng.integers(2**62)))
            for _ in range(self.rounds):
                drawn = rng.integers(len(self.operations), size=len(x))
                for number in np.unique(drawn):
                    rows = to_device(torch.from_numpy(np.flatnonzero(drawn == number)), x.device)
                    x[rows] = self.operations[number](x[rows])
        return (x * 255).round_().clamp_(0, 255).to(torch.uint8)


class RandAugmentSpec(Spec):
    """Applies ``n`` random operations of magnitude ``m`` (of 30) to every image.

    Source: Cubuk et al. 2020, arXiv:1909.13719.
    """

    kind: Literal["randaugment"]
    n: PositiveInt = 2
    m: Annotated[int, Field(gt=0, lt=30)] = 9

    def build(self) -> Policy:
        """Build the policy.

        Raises:
            MissingExtra: kornia is not installed.
        """
        auto = _kornia("", self.kind)
        table = _kornia(".rand_augment.rand_augment", self.kind)
        return Policy([auto.RandAugment(n=1, m=self.m, policy=[op]) for op in table.default_policy], rounds=self.n)


class AutoAugmentSpec(Spec):
    """Applies one of the learned policies of a table to every image.

    Source: Cubuk et al. 2019, arXiv:1805.09501.
    """

    kind: Literal["autoaugment"]
    table: Literal["cifar10", "imagenet", "svhn"]

    def build(self) -> Policy:
        """Build the policy; raises as ``RandAugmentSpec.build``."""
        return Policy(list(_kornia("", self.kind).AutoAugment(self.table).children()), rounds=1)


def _kornia(module: str, policy: str) -> Any:
    return import_optional(f"kornia.augmentation.auto{module}", extra="aug", purpose=f"augment.policy {policy}")
