"""A trained network that takes images as they are: files, Pillow's images, arrays of bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from isospike.data import Augment, AugmentSpec
from isospike.data.decode import CentreCrop
from isospike.data.images import read_image, to_tensor
from isospike.data.modes import in_8_bits
from isospike.errors import ConfigError, DataError
from isospike.inference import Precision
from isospike.inputs import Inputs
from isospike.models import WEIGHTS, SpikingNetwork
from isospike.weights.saved import build_saved
from isospike.weights.trained import read_run

Picture = str | Path | Image.Image | np.ndarray[Any, Any] | Tensor


@dataclass(frozen=True)
class Prediction:
    """What a network says of some images.

    Args:
        probabilities: ``[images, classes]``, each row with the sum 1.
        classes: Names of the columns.
    """

    probabilities: Tensor
    classes: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """The likeliest class of every image."""
        return [self.classes[index] for index in self.probabilities.argmax(1).tolist()]

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """Return the ``count`` likeliest classes of every image (all, where there are fewer), with probabilities."""
        best = self.probabilities.topk(min(count, len(self.classes)))
        return [
            [(self.classes[index], share) for index, share in zip(indices, shares, strict=True)]
            for indices, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


class Predictor:
    """Maps images of any size to classes; it scales, cuts and normalises them as in the test of the training.

    Args:
        model: A trained network; it is put into eval mode.
        inputs: What its images must be. None: what the model says, as that of a run or of ``from_pretrained`` does.
        compiled: Whether the network is compiled for inference, which is faster on a CPU.
        precision: "float32", or "int8" for the weights of a compiled network in 8 bits.
        batch_size: Images that go through the network at once.

    Raises:
        ConfigError: nothing is known of the inputs, they do not fit the model, or the precision is not one of those.
    """

    def __init__(
        self,
        model: SpikingNetwork,
        inputs: Inputs | None = None,
        *,
        compiled: bool = True,
        precision: str = "float32",
        batch_size: int = 64,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is a number of images from 1 on, got {batch_size}")
        if not compiled and precision != "float32":
            raise ConfigError(f"precision='{precision}' is of the compiled network: leave compiled=False out")
        self.model, self.batch_size = model.eval(), batch_size
        self.inputs = _checked_images(inputs, model)
        self.classes = class_names(self.inputs, model)
        self.net = model.compile_for_inference(cast(Precision, precision)) if compiled else model
        self._crop = CentreCrop(self.inputs.size, self.inputs.resize or self.inputs.size)
        self._augment = Augment(AugmentSpec(), self.inputs.mean, self.inputs.std, len(self.classes))

    def __call__(self, images: Picture | Sequence[Picture]) -> Prediction:
        """Tell the classes of one image or of several.

        Args:
            images: Paths of image files, images of Pillow, uint8 arrays ``[H, W]`` or ``[H, W, C]``, uint8 tensors
                ``[H, W]`` or ``[C, H, W]``: one, or a sequence of them; a batch of arrays or tensors has one
                dimension more in front. C is 1 (grey) to 4 (RGBA).

        Raises:
            DataError: there is no image, one cannot be read, or one has another type or shape; names it.
        """
        pictures = _each(images)
        if not pictures:
            raise DataError("there are no images to predict")
        named = [(_name(picture, number), picture) for number, picture in enumerate(pictures)]
        parts = [named[start : start + self.batch_size] for start in range(0, len(named), self.batch_size)]
        return Prediction(torch.cat([self._probabilities(self._prepared(part)) for part in parts]), self.classes)

    def prepare(self, images: Sequence[Picture]) -> Tensor:
        """Scale, cut and normalise images as the test images of the training were: ``[N, C, size, size]``.

        Raises:
            DataError: as a call.
        """
        return self._prepared([(_name(picture, number), picture) for number, picture in enumerate(images)])

    def classify(self, prepared: Sequence[Tensor]) -> Prediction:
        """Tell the classes of images that ``prepare`` has made ready, several of its tensors at once."""
        return Prediction(self._probabilities(torch.cat(list(prepared))), self.classes)

    def _prepared(self, part: Sequence[tuple[str, Picture]]) -> Tensor:
        pixels = torch.stack([to_tensor(self._crop(self._decoded(picture, name))) for name, picture in part])
        return self._augment.test(pixels.to(next(self.model.parameters()).device))

    @torch.no_grad()
    def _probabilities(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(-1).cpu()

    def _decoded(self, picture: Picture, name: str) -> Image.Image:
        channels = self.inputs.channels
        if isinstance(picture, str | Path):
            return read_image(Path(picture), name, channels)
        if isinstance(picture, np.ndarray | Tensor):
            picture = _from_array(picture, name)
        if not isinstance(picture, Image.Image):
            raise DataError(
                f"{name} is a {type(picture).__name__}, not a path, an image of Pillow, an array or a tensor"
            )
        return in_8_bits(picture, name, channels)


def load_run(
    run: Path | str,
    *,
    checkpoint: str | None = None,
    device: torch.device | str = "cpu",
    compiled: bool = True,
    precision: str = "float32",
    batch_size: int = 64,
) -> Predictor:
    """Load the network that a run has trained, ready for images; ``.model`` of it is the network itself.

    Args:
        run: The run folder; or, where there is no folder of this name, weights that come with the package, such as
            "ms_resnet20.digits".
        checkpoint: "last" or "best". None: the weights at the end of training; where it has not ended, those of the
            last checkpoint, which a warning says.
        device: Where it runs.
        compiled: See ``Predictor``, as the others.
        precision: Likewise.
        batch_size: Likewise.

    Raises:
        ConfigError: there is no run, or it says nothing of its images.
        CheckpointError: there are no weights, or they are damaged.
    """
    model = trained_network(run, checkpoint).to(device)
    return Predictor(model, compiled=compiled, precision=precision, batch_size=batch_size)


def trained_network(run: Path | str, checkpoint: str | None) -> SpikingNetwork:
    """Load the network of a run, or one that comes with the package; arguments and errors as of ``load_run``."""
    if Path(run).exists() or Path(run).name != str(run):
        return build_saved(read_run(run, checkpoint))
    if str(run) not in WEIGHTS:
        names = ", ".join(WEIGHTS)
        raise ConfigError(
            f"{run} is not a run folder, and no weights of this name come with the package, as {names} do"
        )
    if checkpoint == "best":
        raise ConfigError(f"'{run}' comes with the package and has no checkpoints: leave 'best' out")
    return WEIGHTS[str(run)]()


def class_names(inputs: Inputs, model: SpikingNetwork) -> tuple[str, ...]:
    """Return what the classes are called: their numbers, where nobody named them."""
    return inputs.classes or tuple(str(number) for number in range(model.num_classes))


def checked_inputs(inputs: Inputs | None, model: SpikingNetwork) -> Inputs:
    """Return what the inputs must be, by ``inputs`` or the model.

    Raises:
        ConfigError: the model does not read such inputs, or tells no classes or others apart.
    """
    inputs = inputs or model.inputs
    if inputs is None:
        raise ConfigError(
            "this model says nothing of its inputs: give inputs=isospike.Inputs(size, mean, std, classes), "
            "as its training had them"
        )
    if not model.num_classes:
        raise ConfigError("this model is a backbone without a classifier, so it predicts no classes")
    if inputs.classes and len(inputs.classes) != model.num_classes:
        named, told = len(inputs.classes), model.num_classes
        raise ConfigError(f"the inputs name {named} classes, and the model tells {told} apart")
    if inputs.channels != model.in_channels:
        raise ConfigError(f"the inputs have {inputs.channels} channels, and the model reads {model.in_channels}")
    return inputs


def _checked_images(inputs: Inputs | None, model: SpikingNetwork) -> Inputs:
    """Return the same for images, and refuse a network that reads none."""
    inputs = checked_inputs(inputs, model)
    if inputs.T is not None:
        raise ConfigError(
            f"this model was trained on recordings of events in {inputs.T} steps, and this reads images: "
            "isospike.Stream and isospike predict read events"
        )
    if inputs.channels not in (1, 3):
        raise ConfigError(
            f"images are grey or RGB, and this model reads {inputs.channels} channels: call it on tensors"
        )
    return inputs


def _each(images: Picture | Sequence[Picture]) -> list[Picture]:
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor) and images.ndim < 4:
        return [images]
    return list(images)


def _name(picture: Picture, number: int) -> str:
    """Return what to call it in an error."""
    return str(picture) if isinstance(picture, str | Path) else f"image {number}"


def _from_array(array: np.ndarray[Any, Any] | Tensor, name: str) -> Image.Image:
    """Return an image from ``[H, W]``, from NumPy's ``[H, W, C]`` or from PyTorch's ``[C, H, W]``."""
    if str(array.dtype).removeprefix("torch.") != "uint8":
        raise DataError(
            f"{name} is of {array.dtype}, and images are uint8 from 0 to 255: call the model itself on normalised ones"
        )
    if isinstance(array, Tensor):
        array = (array.movedim(0, -1) if array.ndim == 3 else array).cpu().numpy()
        expected = "[H, W] or [C, H, W]"
    else:
        expected = "[H, W] or [H, W, C]"
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] > 4):
        raise DataError(f"{name} has the shape {list(array.shape)}, expected {expected} with C from 1 to 4")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))
