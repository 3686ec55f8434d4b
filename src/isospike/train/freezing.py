"""Parts of a network that stay as they are while the rest learns."""

from collections.abc import Sequence

from torch import nn

from isospike.errors import ConfigError
from isospike.layers import BatchNorm
from isospike.models import SpikingNetwork, SpikingResNet


def freeze(model: SpikingNetwork, parts: Sequence[str]) -> list[BatchNorm]:
    """Keep parts of a model from learning.

    Args:
        model: Whose parameters there then ask for no gradient.
        parts: "stem" (with what stands between it and the first stage), "stage1" and so on, "backbone" (all but the
            classifier).

    Returns:
        The norms in these parts; in eval mode they keep their running statistics.

    Raises:
        ConfigError: a stage that the model does not have, or any part of a converted network.
    """
    if not parts:
        return []
    if not isinstance(model, SpikingResNet):
        raise ConfigError(f"train.freeze names {parts[0]}, and a converted network has no such parts: leave it out")
    modules: dict[str, list[nn.Module]] = {
        "stem": [model.stem, model.opening],
        **{f"stage{number}": [stage] for number, stage in enumerate(model.stages, start=1)},
        "backbone": [child for child in model.children() if child is not model.head],
    }
    norms: list[BatchNorm] = []
    for part in parts:
        if part not in modules:
            raise ConfigError(f"train.freeze names {part}, and the model has {len(model.stages)} stages")
        for module in modules[part]:
            module.requires_grad_(False)
            norms += [norm for norm in module.modules() if isinstance(norm, BatchNorm)]
    return norms
