"""A convolution that keeps its input for the backward pass in few bits."""

from types import ModuleType

from torch import Tensor, nn

from isospike.ops import backend
from isospike.ops.cpu import packed_conv as cpu_packed_conv
from isospike.ops.gpu import packed_conv as gpu_packed_conv

WAYS: dict[str, ModuleType] = {"cpu": cpu_packed_conv, "triton": gpu_packed_conv}


def packed_conv(conv: nn.Conv2d, x: Tensor) -> Tensor | None:
    """``conv(x)`` with its gradients, for ``x [N, C, H, W]``; None where the plain convolution is what there is.

    For the backward pass x is kept at one bit per element where it holds only 0 and 1, at one byte where it holds
    integers up to 255, and as it is otherwise. On a CPU its values are looked at; on a GPU, where that would make the
    host wait, it must be what neurons put out (``ops/fired.py``). A second derivative is refused.

    Raises:
        ConfigError: a backend was asked for by name and cannot; the text says why.
    """
    for name, way in WAYS.items():
        if backend.takes(name, x) and way.applies(conv, x) and not backend.refuses(name, way.refusal(x), x):
            return way.packed_conv(conv, x)
    return None
