"""Weights of an earlier training to start from."""

from pathlib import Path

from isospike.errors import CheckpointError
from isospike.models import SpikingNetwork
from isospike.run_folder import RunFolder
from isospike.weights import Tensors, load_tensors, load_weights, under
from isospike.weights.foreign import read_state_dict

CLASSIFIER = ("head.fc.weight", "head.fc.bias")


def load_initial(model: SpikingNetwork, source: str) -> str:
    """Give a model the weights that its training starts from; its classifier stays new where the other has not as many
    classes.

    Args:
        model: Of the same network, but for the number of classes.
        source: A run, whose last weights are taken, averaged where it averages; a folder of ``save_pretrained``; a file
            that isospike wrote; or a state dict by ``torch.save``.

    Returns:
        A sentence that says what was taken.

    Raises:
        CheckpointError: no such file, a damaged one, or weights that do not fit; names the first.
    """
    path = _file(Path(source))
    tensors = _read(path)
    own = {name: tensor for name, tensor in model.state_dict().items() if name in CLASSIFIER}
    classes, before = (len(of[CLASSIFIER[0]]) if CLASSIFIER[0] in of else 0 for of in (own, tensors))
    if classes == before:
        load_weights(model, tensors, str(path))
        return f"training starts from the weights in {path}"
    load_weights(model, {**tensors, **own}, str(path))
    return f"training starts from the weights in {path}, with a new classifier: {classes} classes, there {before}"


def _file(source: Path) -> Path:
    """Return the file of weights that a folder holds, or the file itself."""
    if not source.is_dir():
        return source
    run = RunFolder(source)
    found = [path for path in (run.checkpoint("last"), run.weights) if path.is_file()]
    if not found:
        raise CheckpointError(
            f"{source} holds no weights: neither checkpoints/last.safetensors, as a run, nor model.safetensors"
        )
    return found[0]


def _read(path: Path) -> Tensors:
    if path.suffix != ".safetensors":
        return read_state_dict(path)
    tensors, _ = load_tensors(path)
    return under("ema", tensors) or under("model", tensors) or tensors
