"""What a program says of every call that an ANN may make: one function for each, by the name that PyTorch gives it.

The names of functions, of methods and of ATen's operators are the same, and so are their arguments; where they are not,
that of ATen stands with its prefix.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isospike.conversion.builder import Builder, Map, Row, Seen, Strided, Unsupported
from isospike.conversion.norms import as_batch_norm
from isospike.layers import Conv2d
from isospike.neurons import ReLU


class Pattern(NamedTuple):
    """What writes a call down, and the halves of something that it can go on from."""

    write: Callable[..., Seen]
    takes: tuple[type, ...]


PATTERNS: dict[str, Pattern] = {}


def pattern(*names: str, takes: tuple[type, ...] = ()) -> Callable[[Callable[..., Seen]], Any]:
    """Register a function for these calls; it takes their arguments behind a builder."""

    def register(function: Callable[..., Seen]) -> Callable[..., Seen]:
        PATTERNS.update(dict.fromkeys(names, Pattern(function, takes)))
        return function

    return register


# Layers with weights -------------------------------------------------------------------------------------------------


@pattern("conv2d")
def conv2d(
    b: Builder,
    x: Map,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Map:
    """Write a convolution; of a map without pixels it is a linear layer."""
    if x.is_flat and weight.shape[2:] == (1, 1) and groups == 1:
        return linear(b, x, weight.flatten(1), bias)
    return b.call(x, convolution(weight, bias, stride, padding, dilation, groups))


def convolution(weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Conv2d:
    """Return the layer of these weights ``[O, I / groups, kH, kW]``."""
    out_channels, each, height, width = weight.shape
    kernel = (height, width)
    padding = _padding(padding, kernel, dilation)
    layer = Conv2d(
        each * groups, out_channels, kernel, _pair(stride), padding, _pair(dilation), groups, bias is not None
    )
    return _with(layer.to(weight), weight=weight, bias=bias)


@pattern("linear")
def linear(b: Builder, x: Map, weight: Tensor, bias: Tensor | None = None) -> Map:
    """Write a linear layer."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None).to(weight)
    return b.call(x, _with(layer, weight=weight, bias=bias))


@pattern("batch_norm")
def batch_norm(
    b: Builder,
    x: Map,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Map:
    """Write a batch norm by its running statistics."""
    if training or running_mean is None or running_var is None:
        raise Unsupported("a batch norm without running statistics cannot be folded: train it with them")
    norm = nn.BatchNorm2d(len(running_mean), eps, momentum, affine=weight is not None).to(running_mean)
    given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    layer = as_batch_norm(_with(norm, **given).eval())
    assert layer is not None
    return b.call(x, layer)


@pattern("aten::batch_norm")
def aten_batch_norm(
    b: Builder,
    x: Map,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Map:
    """Write the same with its arguments in another order."""
    return batch_norm(b, x, running_mean, running_var, weight, bias, training, momentum, eps)


# Without weights -----------------------------------------------------------------------------------------------------


@pattern("relu", "relu_")
def relu(b: Builder, x: Map, inplace: bool = False) -> Map:
    """Write a rectifier of its own, however often the module is called."""
    return b.call(x, ReLU())


@pattern("clamp", "clamp_", "clamp_min", "clamp_min_")
def clamp(b: Builder, x: Map, min: float | None = None, max: float | None = None) -> Map:
    """Write a rectifier where it cuts at 0 alone."""
    if min != 0 or max is not None:
        raise Unsupported("only a clamp at 0 from below is a rectifier: train with ReLU")
    return relu(b, x)


@pattern("add", "add_", "iadd")
def add(b: Builder, x: Map | Tensor, y: Map | Tensor, alpha: float = 1) -> Map:
    """Write a sum of maps."""
    if not (isinstance(x, Map) and isinstance(y, Map)):
        raise Unsupported("a number or a parameter is added to a map: make it the bias of the layer before it")
    return b.add(x, y if alpha == 1 else b.times(y, alpha))


@pattern("sub", "sub_")
def sub(b: Builder, x: Map, y: Map, alpha: float = 1) -> Map:
    """Write a difference of maps."""
    return add(b, x, y, -alpha)


@pattern("mul", "mul_", "imul", takes=(Strided,))
def mul(b: Builder, x: Map | Strided | float, y: Map | Strided | float) -> Map | Tensor:
    """Write a map times a number; zeros where that is 0."""
    x, y = (y, x) if isinstance(y, Map | Strided) else (x, y)
    if isinstance(x, Map | Strided) and isinstance(y, int | float):
        return zeros(b) if y == 0 else b.times(b.shortcut(x) if isinstance(x, Strided) else x, y)
    raise Unsupported(
        "it multiplies two maps, or a map and a parameter, as gates and layer scales do: train without it"
    )


@pattern("div", "div_", "truediv")
def div(b: Builder, x: Map, y: float) -> Map | Tensor:
    """Write a map divided by a number."""
    if not isinstance(y, int | float):
        raise Unsupported("it divides by a map or a parameter: train without it")
    return mul(b, x, 1 / y)


@pattern("zeros_like", "new_zeros", takes=(Strided, Row))
def zeros(b: Builder, *like: Any, **options: Any) -> Tensor:
    """Write zeros, whatever the map."""
    return torch.zeros(b.shape)


@pattern("dropout", "dropout2d", "feature_dropout", "alpha_dropout")
def dropout(b: Builder, x: Map, p: float = 0.5, training: bool = False, inplace: bool = False) -> Map:
    """Write nothing, as dropout does nothing in eval mode."""
    if training:
        raise Unsupported("dropout is on whatever the mode: write training=self.training")
    return x


@pattern("contiguous", "clone", "detach", "alias", "float", "double", "to", "type_as", "type", "_to_copy", "detach_")
def same(b: Builder, x: Map, *how: Any, **options: Any) -> Map:
    """Write nothing for the same numbers elsewhere or in another precision, which is that of the weights."""
    return x


# Pools ---------------------------------------------------------------------------------------------------------------


@pattern("max_pool2d")
def max_pool2d(
    b: Builder,
    x: Map,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Map | Strided:
    """Write a max pool; of 1x1 pixels it takes every few pixels."""
    if return_indices:
        raise Unsupported("it hands out where the largest were: pool without return_indices")
    step = _pair(stride or kernel_size)
    if _pair(kernel_size) == (1, 1) and _pair(padding) == (0, 0):
        return every(b, x, step)
    return b.call(x, nn.MaxPool2d(_pair(kernel_size), step, _pair(padding), _pair(dilation), ceil_mode=ceil_mode))


@pattern("avg_pool2d")
def avg_pool2d(
    b: Builder,
    x: Map,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Map | Strided:
    """Write an average pool; one over all pixels is global."""
    kernel, step = _pair(kernel_size), _pair(stride or kernel_size)
    if divisor_override is not None:
        raise Unsupported("it divides by another number than that of its pixels: pool without divisor_override")
    if kernel == (1, 1) and _pair(padding) == (0, 0):
        return every(b, x, step)
    if kernel == x.shape[2:] and b.shape[2:] == (1, 1) and _pair(padding) == (0, 0):
        return b.pool(x)
    return b.call(x, nn.AvgPool2d(kernel, step, _pair(padding), ceil_mode, count_include_pad))


@pattern("adaptive_avg_pool2d")
def adaptive_avg_pool2d(b: Builder, x: Map, output_size: Any) -> Map | Strided:
    """Write a global pool, or an average pool where the pixels divide."""
    return avg_pool2d(b, x, kernel) if (kernel := _adaptive(b, x)) else x


@pattern("adaptive_max_pool2d")
def adaptive_max_pool2d(b: Builder, x: Map, output_size: Any, return_indices: bool = False) -> Map | Strided:
    """Write a max pool where the pixels divide."""
    return max_pool2d(b, x, kernel, return_indices=return_indices) if (kernel := _adaptive(b, x)) else x


def _adaptive(b: Builder, x: Map) -> tuple[int, int] | None:
    """Return the kernel that an adaptive pool has on these pixels; None where it has nothing to do."""
    if x.shape == b.shape:
        return None
    sides = list(zip(x.shape[2:], b.shape[2:], strict=True))
    if x.is_flat or any(size % out for size, out in sides):
        raise Unsupported(f"it pools {x.shape[2:]} pixels to {b.shape[2:]}, which do not divide: pool to 1x1 pixels")
    height, width = (size // out for size, out in sides)
    return height, width


@pattern("mean", takes=(Row,))
def mean(b: Builder, x: Map | Row, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Map | Row:
    """Write a global pool, all at once or one side after the other."""
    before = x.shape
    dims = {d % len(before) for d in ([dim] if isinstance(dim, int) else dim or range(len(before)))}
    if isinstance(x, Row) and dims == {2}:
        return b.pool(x.whole)
    if isinstance(x, Map) and x.is_flat and dims <= {2, 3}:
        return Map(x.symbol, b.shape, is_flat=True)
    if isinstance(x, Map) and dims == {2, 3}:
        return b.pool(x)
    if isinstance(x, Map) and len(dims) == 1 and dims <= {2, 3} and not keepdim:
        return Row(x, b.shape)
    raise Unsupported(f"it averages over dimensions {sorted(dims)}: average over all pixels, dimensions 2 and 3")


# Shapes --------------------------------------------------------------------------------------------------------------


@pattern("flatten", "view", "reshape", "squeeze", "unsqueeze", "_unsafe_view", "squeeze_", "unsqueeze_", takes=(Row,))
def reshape(b: Builder, x: Map | Row, *shape: Any, **more: Any) -> Map | Row:
    """Write a map in a row, in whatever words: what matters is the shape that comes out."""
    before, after = x.shape, b.shape
    if before == after:
        return x
    if isinstance(x, Map) and x.is_flat and after[:2] == before[:2] and math.prod(after[2:]) == 1:
        return Map(x.symbol, after, is_flat=True)
    if isinstance(x, Map) and not x.is_flat and after == (before[0], math.prod(before[1:])):
        return b.flatten(x)
    if isinstance(x, Map) and not x.is_flat and after == (*before[:2], math.prod(before[2:])):
        return Row(x, after)
    if isinstance(x, Row) and x.shape[2] == math.prod(x.whole.shape[2:]) and after == x.whole.shape:
        return x.whole
    raise Unsupported(
        f"it makes {list(after)} of {list(before)}: a map may be flattened to [B, C * H * W], the batch size left open"
    )


@pattern("getitem", takes=(Strided,))
def getitem(b: Builder, x: Map | Strided, index: Any) -> Map | Row | Strided:
    """Write every few pixels from the first on, or the one pixel that there is."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (len(x.shape) + 1 - len(index)), *index[at + 1 :])
    if isinstance(x, Map) and (x.shape == b.shape or (x.is_flat and b.shape[:2] == x.shape[:2])):
        return reshape(b, x)
    begins = all(isinstance(i, slice) and not i.start and i.stop is None for i in index)
    if not begins or any(i.step not in (None, 1) for i in index[:2]) or (isinstance(x, Map) and x.is_flat):
        raise Unsupported("it takes part of a map: only every few pixels from the first on, x[:, :, ::2, ::2], may be")
    height, width = (*(i.step or 1 for i in index[2:]), 1, 1)[:2]
    return every(b, x, (height, width))


@pattern("aten::slice", takes=(Strided,))
def aten_slice(
    b: Builder, x: Map | Strided, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Map | Row | Strided:
    """Write one side of a slice."""
    end = None if end is None or end >= x.shape[dim] else end
    return getitem(b, x, (*[slice(None)] * dim, slice(start, end, step)))


@pattern("aten::select")
def aten_select(b: Builder, x: Map, dim: int, index: int) -> Map | Row | Strided:
    """Write the one pixel that there is."""
    return getitem(b, x, (*[slice(None)] * dim, index))


def every(b: Builder, x: Map | Strided, step: tuple[int, int]) -> Map | Strided:
    """Return every ``step``-th pixel of both sides."""
    if step == (1, 1):
        return x
    if isinstance(x, Map):
        return Strided(x, step, b.shape)
    return Strided(x.whole, (x.step[0] * step[0], x.step[1] * step[1]), b.shape)


@pattern("pad", takes=(Strided,))
def pad(b: Builder, x: Map | Strided, pad: Sequence[int], mode: str = "constant", value: float | None = 0) -> Map:
    """Write channels of zeros."""
    channels = [0, 0, *pad[4:6]][-2:]
    if mode != "constant" or value or any(pad[:4]) or len(pad) > 6 or min(channels) < 0:
        raise Unsupported("it pads pixels, or not with zeros: give the convolution or pool behind it the padding")
    return b.shortcut(x, *channels)


@pattern("cat", "concat", "concatenate", takes=(Strided,))
def cat(b: Builder, tensors: Sequence[Any], dim: int = 0) -> Map:
    """Write channels of zeros before or behind a map."""
    places = [n for n, t in enumerate(tensors) if not isinstance(t, Tensor)]
    if len(places) != 1 or dim not in (1, -3) or any(t.any() for t in tensors if isinstance(t, Tensor)):
        raise Unsupported("it concatenates maps: add them, as residual networks do")
    (place,) = places
    before, behind = (sum(t.shape[1] for t in part) for part in (tensors[:place], tensors[place + 1 :]))
    return b.shortcut(tensors[place], before, behind)


# Arguments -----------------------------------------------------------------------------------------------------------


def _pair(value: Any) -> tuple[int, int]:
    values = (value, value) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])


def _padding(padding: Any, kernel: Sequence[int], dilation: Any) -> tuple[int, int]:
    """Return the padding in pixels, where it has a name."""
    if padding == "valid":
        return 0, 0
    if padding != "same":
        return _pair(padding)
    spans = [each * (size - 1) for each, size in zip(_pair(dilation), kernel, strict=True)]
    if any(span % 2 for span in spans):
        raise Unsupported("it pads more on one side than on the other: take an odd kernel, or padding in pixels")
    return spans[0] // 2, spans[1] // 2


def _with(layer: Any, **tensors: Tensor | None) -> Any:
    """Write a layer with these weights."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor is not None:
                getattr(layer, name).copy_(tensor)
    return layer
