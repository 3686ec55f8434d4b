"""RandAugment and AutoAugment, through kornia.

Kornia draws one operation for a whole batch. Here every image draws its own, as in the papers: the images of a batch
are grouped by what they drew, and kornia works on the groups.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from isospike.config import AutoAugmentSpec, RandAugmentSpec
from isospike.data.transfer import to_device
from isospike.optional import import_optional

Operation = Callable[[Tensor], Tensor]


class Policy:
    """Applies ``rounds`` operations to every image of a uint8 batch, each drawn from ``operations``."""

    def __init__(self, operations: Sequence[Operation], rounds: int) -> None:
        self.operations, self.rounds = operations, rounds

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """uint8 to uint8, same shape; what kornia draws by itself is seeded from ``rng``."""
        x = images.float() / 255
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(int(rng.integers(2**62)))
            for _ in range(self.rounds):
                drawn = rng.integers(len(self.operations), size=len(x))
                for number in np.unique(drawn):
                    rows = to_device(torch.from_numpy(np.flatnonzero(drawn == number)), x.device)
                    x[rows] = self.operations[number](x[rows])
        return (x * 255).round_().clamp_(0, 255).to(torch.uint8)


def build_policy(spec: RandAugmentSpec | AutoAugmentSpec) -> Policy:
    """The policy that a configuration asks for.

    Raises:
        MissingExtra: kornia is not installed.

    Source: Cubuk et al. 2020, arXiv:1909.13719 (RandAugment); Cubuk et al. 2019, arXiv:1805.09501 (AutoAugment).
    """
    purpose = f"augment.policy {spec.kind}"
    auto = import_optional("kornia.augmentation.auto", extra="aug", purpose=purpose)
    if isinstance(spec, AutoAugmentSpec):
        return Policy(list(auto.AutoAugment(spec.table).children()), rounds=1)
    table = import_optional("kornia.augmentation.auto.rand_augment.rand_augment", extra="aug", purpose=purpose)
    return Policy([auto.RandAugment(n=1, m=spec.m, policy=[op]) for op in table.default_policy], rounds=spec.n)
