"""A trained network that takes whole recordings of events: one decision about each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from isospike.data import Augment, AugmentSpec
from isospike.data.recordings import FrameData
from isospike.errors import DataError
from isospike.events import Events
from isospike.models import SpikingNetwork
from isospike.predictor import Prediction, class_names
from isospike.streaming import checked_recordings


class RecordingPredictor:
    """Maps recordings to classes; it cuts, scales and normalises them as in the test of the training.

    Args:
        model: A network that was trained on recordings; it is put into eval mode, and compiled for inference.
        data: What cut the recordings of its training into frames.

    Raises:
        ConfigError: nothing is known of the inputs, they are no recordings, or they do not fit the model.
    """

    def __init__(self, model: SpikingNetwork, data: FrameData) -> None:
        self.inputs = checked_recordings(None, model)
        self.classes = class_names(self.inputs, model)
        self.data = data.model_copy(update={"size": self.inputs.size})
        self._net = model.eval().compile_for_inference()
        self._device = next(model.parameters()).device
        self._augment = Augment(AugmentSpec(), self.inputs.mean, self.inputs.std, len(self.classes))

    def __call__(self, recordings: Sequence[tuple[str, Events]]) -> Prediction:
        """Tell the class of each of several recordings, which are on their sensors, beside their names.

        Raises:
            DataError: there is none, one is too short for its frames, or its sensor is smaller than they are.
        """
        if not recordings:
            raise DataError("there are no recordings to predict")
        return Prediction(torch.cat([self._probabilities(events, name) for name, events in recordings]), self.classes)

    @torch.no_grad()
    def _probabilities(self, events: Events, name: str) -> Tensor:
        width, height = events.sensor or (0, 0)
        if max(width, height) < self.inputs.size:
            raise DataError(
                f"{name}: a sensor of {width}x{height} pixels is smaller than the frames of this network, "
                f"{self.inputs.size}x{self.inputs.size}: it was trained on events of a larger one"
            )
        frames = torch.from_numpy(self.data.integrated(events, name)).to(self._device)
        return self._net(self._augment.test(frames[:, None])).softmax(-1).cpu()
