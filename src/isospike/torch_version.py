"""The oldest PyTorch that runs this package; importing the package checks it."""

import re

import torch

OLDEST = (2, 9)


def check(version: str) -> None:
    """Refuse an older PyTorch in one sentence, in place of whatever fails first.

    Raises:
        ImportError: ``version`` is below ``OLDEST``.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ImportError(f"isospike needs PyTorch {oldest} or newer, and this is {version}: pip install -U torch")


check(torch.__version__)
