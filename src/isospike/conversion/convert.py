"""From any trained ANN to a spiking network, in one call."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from isospike.conversion.capture import capture
from isospike.conversion.methods import METHODS
from isospike.errors import ConfigError
from isospike.models import ProgramNet


def convert(ann: nn.Module, images: Tensor | Iterable[Tensor], method: str = "s_resnet", **options: Any) -> ProgramNet:
    """Convert a trained ANN into a spiking network.

    Args:
        ann: A residual or plain network of PyTorch in eval mode, ``[B, C, H, W]`` to logits ``[B, classes]``, or an ANN
            of this package. It stays as it is.
        images: Calibration images ``[N, C, H, W]``, or batches of them, normalised as in training: never test images.
        method: A name in ``METHODS``.
        options: Of the method, with ``T``, the time steps that it is made for.

    Returns:
        A network like any other, in eval mode; images are shown ``T`` times.

    Raises:
        UnknownName: there is no such method, or it has no such option.
        Uncapturable: the ANN makes calls that no spiking network makes; all of them are listed.
        ConfigError: the ANN or the images cannot be used; says what would be right.
        ShapeError: the ANN does not take such images.
    """
    chosen = METHODS[method]
    batches = _checked([images] if isinstance(images, Tensor) else list(images))
    program = capture(ann, batches[0])
    for batch in batches:
        program.as_sequence(batch, None)  # refuses what does not fit
    return chosen.convert(program, batches, **options)


def _checked(batches: list[Tensor]) -> list[Tensor]:
    """Return the batches that hold images."""
    for batch in batches:
        if batch.dim() != 4:
            raise ConfigError(
                f"calibration images are [N, C, H, W], in one tensor or in batches, got {list(batch.shape)}"
            )
        if not torch.isfinite(batch).all():
            raise ConfigError(
                "the calibration images hold numbers that are not finite, so no threshold could be chosen"
            )
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        raise ConfigError(
            "an ANN is converted on calibration images, and there are none: give some hundred of training"
        )
    return batches
