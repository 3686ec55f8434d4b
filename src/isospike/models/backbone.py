"""A model as a backbone, as detection and segmentation take it."""

from collections.abc import Sequence

from torch import Tensor, nn

from isospike.models.features import FeatureInfo, checked_indices
from isospike.models.resnet import SpikingResNet


class FeatureMaps(nn.Module):
    """A model as a backbone: it puts out a list of feature maps and has no use for its head.

    Args:
        model: Any model of this package; it is not copied.
        out_indices: Which maps: 0 is what enters the first stage, s what stage s = 1, 2, ... puts out; negative ones
            count from the end. None: all.

    Raises:
        ConfigError: there is no map with such an index.
    """

    def __init__(self, model: SpikingResNet, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        self.model = model
        self.out_indices = checked_indices(out_indices, len(model.feature_info))
        self.feature_info = FeatureInfo(model.feature_info[index] for index in self.out_indices)

    def forward(self, x: Tensor, *, T: int | None = None, per_step: bool = False) -> list[Tensor]:
        """Return the mean maps ``[B, C, H, W]``, or ``[T, B, C, H, W]``; arguments as of ``SpikingResNet``."""
        maps = self.model.stage_maps(x, T=T, stages=max(self.out_indices))
        chosen = [maps[index] for index in self.out_indices]
        return chosen if per_step else [feature.mean(0) for feature in chosen]
