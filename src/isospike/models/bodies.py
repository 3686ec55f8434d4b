"""Bodies: how many units of which width stand in which stage, behind which stem.

A body is a family of layouts by depth; which bodies a topology comes in, its row says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from isospike.registry import Registry


@dataclass(frozen=True)
class Stem:
    """The convolutions before the first unit, with one batch norm after them.

    Args:
        convs: ``(kernel, stride)`` of each.
        bias: Whether they have one.
        max_pool: 3x3 max-pool of stride 2 before the first unit.
        first_stride: Stride of the first stage behind this stem.
        input_norm: Whether the input itself is normalised first, without weights.
    """

    convs: tuple[tuple[int, int], ...]
    bias: bool = False
    max_pool: bool = False
    first_stride: int = 1
    input_norm: bool = False


STEMS: Registry[Stem] = Registry("stem")
STEMS.register("cifar", Stem(convs=((3, 1),)))
STEMS.register("cifar_normed", Stem(convs=((3, 1),), input_norm=True))
STEMS.register("pointwise", Stem(convs=((1, 1),)))
STEMS.register("dvs", Stem(convs=((3, 1),), first_stride=2))
STEMS.register("dvs_stem", Stem(convs=((3, 2),)))
STEMS.register("dvs_both", Stem(convs=((3, 2),), first_stride=2))
STEMS.register("imagenet", Stem(convs=((7, 2),), max_pool=True))
STEMS.register("strided", Stem(convs=((7, 2),), first_stride=2))
STEMS.register("three_conv", Stem(convs=((3, 2), (3, 1), (3, 1)), bias=True, first_stride=2))


@dataclass(frozen=True)
class Layout:
    """The layout of a network: all of it but the topology of its units.

    Args:
        stem: Name in ``STEMS``.
        stem_width: Output channels of the stem.
        blocks: Units per stage.
        widths: Width of each stage; stages after the first start with stride 2.
        bottleneck: Units of 1x1 - 3x3 - 1x1.
        pool_projection: Average pools take the strides of the projections.
        project_stages: The first unit of every stage has a projection, also where the shape stays.
        norm_stages: The first unit of every stage has a norm on its skip where the shape stays, as its projection has.
        pool_stages: Units keep their shape; a layer like the stem's first widens the stream where a stage is wider,
            and a 2x2 max-pool ends every stage.
        hidden: Width of a spiking layer between pooling and classifier.
        dropout: Share of pooled features left out in training.
        num_classes: Default number of classes.
        input_size: Height and width of the images it is meant for.
        in_channels: Default number of input channels.
        T: Time steps of its source, where they are not the topology's.
        neuron: The neuron of its source, where it is not the topology's.
    """

    stem: str
    stem_width: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    pool_projection: bool = False
    project_stages: bool = False
    norm_stages: bool = False
    pool_stages: bool = False
    hidden: int | None = None
    dropout: float = 0.0
    num_classes: int = 10
    input_size: int = 32
    in_channels: int = 3
    T: int | None = None
    neuron: Mapping[str, Any] | None = None

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of the first unit of each stage."""
        if self.pool_stages:
            return (1,) * len(self.blocks)
        return (STEMS[self.stem].first_stride, *[2] * (len(self.blocks) - 1))

    @property
    def total_stride(self) -> int:
        """Input pixels per pixel of the last map."""
        stem = STEMS[self.stem]
        total = (2 if stem.max_pool else 1) * 2 ** (len(self.blocks) * self.pool_stages)
        for stride in (*(s for _, s in stem.convs), *self.strides):
            total *= stride
        return total


@dataclass(frozen=True)
class Body:
    """A family of layouts.

    Args:
        family: The name that ``body=`` of ``create_model`` asks for.
        depths: Depths that are listed; others may exist.
        rule: The depths that exist, in words.
        layout: ``layout(depth, width)``, or None where the depth does not fit; ``width`` is that of the first stage,
            None for the body's own.
    """

    family: str
    depths: tuple[int, ...]
    rule: str
    layout: Callable[[int, int | None], Layout | None]


def _widths(first: int, stages: int) -> tuple[int, ...]:
    return tuple(first * 2**stage for stage in range(stages))


def _cifar(depth: int, width: int | None, default: int = 16) -> Layout | None:
    """Follow He et al. 2016, section 4.2: 6n+2 layers, widths 16-32-64."""
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        return None
    widths = _widths(width or default, 3)
    return Layout("cifar", widths[0], (n, n, n), widths)


IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _imagenet(depth: int, width: int | None) -> Layout | None:
    """Follow He et al. 2016, table 1: basic units to depth 34, bottlenecks from 50 on."""
    if depth not in IMAGENET_BLOCKS:
        return None
    widths = _widths(width or 64, 4)
    blocks = IMAGENET_BLOCKS[depth]
    return Layout("imagenet", widths[0], blocks, widths, bottleneck=depth >= 50, num_classes=1000, input_size=224)


def _imagenet_104(depth: int, width: int | None) -> Layout | None:
    """Follow MS-ResNet-104: basic units, three stem convolutions, pooled projections, dropout (released code)."""
    if depth != 104:
        return None
    widths = _widths(width or 64, 4)
    layout = Layout("three_conv", widths[0], (3, 8, 32, 8), widths, num_classes=1000, input_size=224)
    return replace(layout, pool_projection=True, dropout=0.2)


def _resnet19(depth: int, width: int | None) -> Layout | None:
    """Follow tdBN's ResNet-19: widths 128-256-512, a hidden layer; the stem has 64 as its ports (paper: 128?)."""
    if depth != 19:
        return None
    widths = _widths(width or 128, 3)
    return Layout("cifar", widths[0] // 2, (3, 3, 2), widths, hidden=widths[-1] // 2)


def _resnet19_128(depth: int, width: int | None) -> Layout | None:
    """Follow BrainCog's: the stem is as wide as the first stage, whose first skip is then a norm."""
    layout = _resnet19(depth, width)
    return layout and replace(layout, stem_width=layout.widths[0], norm_stages=True)


def _but(layout: Callable[[int, int | None], Layout | None], **changes: object) -> Callable[..., Layout | None]:
    """Return the same family with fields changed."""

    def changed(depth: int, width: int | None) -> Layout | None:
        found = layout(depth, width)
        return found and replace(found, **changes)  # type: ignore[arg-type]

    return changed


CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 68, 110)
IMAGENET_RULE = "ImageNet 18, 34, 50, 101, 152"
CIFAR_RULE = "CIFAR 6n+2"

BODIES: Registry[Body] = Registry("body")
BODIES.register("imagenet", Body("imagenet", tuple(IMAGENET_BLOCKS), IMAGENET_RULE, _imagenet))
BODIES.register(
    "imagenet_strided", Body("imagenet", tuple(IMAGENET_BLOCKS), IMAGENET_RULE, _but(_imagenet, stem="strided"))
)
BODIES.register("imagenet_104", Body("imagenet", (104,), "ImageNet 104", _imagenet_104))
BODIES.register("resnet19", Body("resnet19", (19,), "19", _resnet19))
BODIES.register("resnet19_128", Body("resnet19_128", (19,), "19", _resnet19_128))
BODIES.register("cifar", Body("cifar", (*CIFAR_DEPTHS, 482), CIFAR_RULE, _cifar))
BODIES.register("cifar_pooled", Body("cifar", (*CIFAR_DEPTHS, 482), CIFAR_RULE, _but(_cifar, pool_projection=True)))
BODIES.register("cifar_wide", Body("cifar", CIFAR_DEPTHS, CIFAR_RULE, partial(_cifar, default=64)))
BODIES.register("cifar_projected", Body("cifar_projected", (), CIFAR_RULE, _but(_cifar, project_stages=True)))

SEW_PLIF = {"kind": "plif", "tau": 2.0, "surrogate": {"kind": "arctan", "alpha": 2.0}, "detach_reset": True}


def _seven_blocks(widths: tuple[int, ...], num_classes: int) -> Layout:
    """Follow Fang et al. 2021 (SEW), arXiv:2102.04159, and its released code: networks for events of 128x128 pixels."""
    layout = Layout("pointwise", widths[0], (1,) * 7, widths, pool_stages=True, num_classes=num_classes)
    return replace(layout, input_size=128, in_channels=2, T=16, neuron=SEW_PLIF)


NETS: Registry[Layout] = Registry("network")
NETS.register("7b_net", _seven_blocks((32,) * 7, 11))
NETS.register("wide_7b_net", _seven_blocks((64,) * 4 + (128,) * 3, 10))
