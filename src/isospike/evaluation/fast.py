"""A trained network compiled for ``evaluate``, on request with early exit."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from isospike.data import Augment, Dataset
from isospike.data.dataset import stratified
from isospike.inference import EarlyExit, Precision
from isospike.models import SpikingNetwork
from isospike.processes import World

CALIBRATION_IMAGES = 1000  # of the training split, of every class its share


class FastNetwork(nn.Module):
    """Maps images to logits by the compiled network; with early exit it counts the time steps that were taken.

    Args:
        model: The trained network, on the device of the test.
        precision: See ``SpikingNetwork.compile_for_inference``.
    """

    def __init__(self, model: SpikingNetwork, precision: str) -> None:
        super().__init__()
        self.net, self.T = model.compile_for_inference(cast(Precision, precision)), model.T  # others are refused
        self.early: EarlyExit | None = None
        self.agreement, self.calibrated_on = 1.0, 0
        self.steps = self.images = 0

    def calibrate(
        self, agreement: float, dataset: Dataset, augment: Augment, *, batch_size: int, device: torch.device
    ) -> None:
        """Choose the margin of early exit at which this share of training images keeps its class.

        They are prepared as the test images are, which play no part in it themselves. The network has seen the training
        images, so it may be surer of them.
        """
        order = stratified(dataset.train.labels, CALIBRATION_IMAGES).split(batch_size)
        shown = dataset.train.prepared_as(dataset.test)
        batches = (augment.test(images.to(device)) for images in shown.batches(order, 0))
        self.early = EarlyExit.calibrated(self.net, batches, agreement)
        self.agreement, self.calibrated_on = agreement, sum(map(len, order))

    def forward(self, x: Tensor, *, per_step: bool = False) -> Tensor:
        """Return images ``[B, C, H, W]`` to logits, per step as the model; of early exit there is one for all steps."""
        if self.early is None:
            return self.net(x, per_step=per_step)
        logits, steps = self.early(x)
        self.steps, self.images = self.steps + int(steps.sum()), self.images + len(steps)
        return logits.unsqueeze(0) if per_step else logits

    def facts(self, world: World) -> dict[str, Any]:
        """Return the facts of the test: precision, and of early exit the margin and the average number of steps."""
        facts: dict[str, Any] = {"precision": self.net.precision}
        if self.early is None:
            return facts
        steps, images = world.sum(torch.tensor([self.steps, self.images], device=world.device)).tolist()
        return facts | {
            "early_exit": {
                "agreement": self.agreement,
                "calibration": f"{self.calibrated_on} training images, of every class its share",
                "margin": self.early.margin,
                "average_T": steps / images,
                "T": self.T,
            }
        }
