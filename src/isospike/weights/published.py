"""Weights that the papers' authors published, loaded into our models: rows of names, and one loader.

Sources of the names: the models in github.com/Ariande1/MS-ResNet (models/MS_ResNet.py),
github.com/fangwei123456/Spike-Element-Wise-ResNet (imagenet/sew_resnet.py, imagenet/spiking_resnet.py) and
github.com/langfengQ/MLF-DSResNet (parallel_nets/ResNet_for_*.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from isospike.errors import CheckpointError
from isospike.models import SpikingResNet
from isospike.registry import Registry
from isospike.text import brief
from isospike.weights.files import load_weights
from isospike.weights.foreign import KeyMap, fixed_affines, read_state_dict, without_scale


@dataclass(frozen=True)
class Published:
    """What one code base calls its weights, and the unit that they were trained in.

    Args:
        models: Models of ours that they belong to, in words.
        branch: Words of a unit with two convolutions, as ``Topology.branch(2)``.
        project: Words of its projection.
        after: Words after the join.
        keys: Names of the modules.
        factor_apart: Whether their norms have tdBN's constant factor beside the weight, as ours have it.
    """

    models: str
    branch: str
    project: str
    keys: KeyMap
    after: str = ""
    factor_apart: bool = False


PUBLISHED: Registry[Published] = Registry("source of weights")

_MS_BRANCH = {
    f"conv{{stage}}_x.{{unit}}.residual_function.{theirs}": f"stages.{{stage}}.{{unit}}.branch.{ours}"
    for theirs, ours in {"1": "conv1", "2.bn": "norm1", "4": "conv2", "5.bn": "norm2"}.items()
}
PUBLISHED.register(
    "ms_resnet",
    Published(
        models="ms_resnet18 and 34",
        branch="spike conv norm spike conv norm",
        project="conv norm",
        keys=KeyMap(
            {
                "conv1.0": "stem.conv",
                "conv1.1.bn": "stem.norm",
                **_MS_BRANCH,
                "conv{stage}_x.{unit}.shortcut.0": "stages.{stage}.{unit}.skip.conv",
                "conv{stage}_x.{unit}.shortcut.1.bn": "stages.{stage}.{unit}.skip.norm",
                "fc": "head.fc",
            },
            first_stage=2,
        ),
    ),
)
PUBLISHED.register(
    "ms_resnet104",
    Published(
        models="ms_resnet104",
        branch="spike conv norm spike conv norm",
        project="conv norm",
        keys=KeyMap(
            {
                "conv1.0": "stem.conv1",
                "conv1.1": "stem.conv2",
                "conv1.2": "stem.conv3",
                "conv1.3.bn": "stem.norm",
                **_MS_BRANCH,
                "conv{stage}_x.{unit}.shortcut.1": "stages.{stage}.{unit}.skip.conv",  # 0 is the average pool
                "conv{stage}_x.{unit}.shortcut.2.bn": "stages.{stage}.{unit}.skip.norm",
                "fc": "head.fc",
            },
            first_stage=2,
        ),
    ),
)
_SEW_COMMON = {
    "conv1": "stem.conv",
    "bn1": "stem.norm",
    "layer{stage}.{unit}.conv{n}.module.0": "stages.{stage}.{unit}.branch.conv{n}",
    "layer{stage}.{unit}.conv{n}.module.1": "stages.{stage}.{unit}.branch.norm{n}",
    "fc": "head.fc",
}
PUBLISHED.register(
    "sew_resnet",
    Published(
        models="sew_resnet18, 34, 50, 101 and 152",
        branch="conv norm spike conv norm spike",
        project="conv norm spike",
        keys=KeyMap(
            {
                **_SEW_COMMON,
                "layer{stage}.{unit}.downsample.0.module.0": "stages.{stage}.{unit}.skip.conv",
                "layer{stage}.{unit}.downsample.0.module.1": "stages.{stage}.{unit}.skip.norm",
            },
            first_stage=1,
        ),
    ),
)
PUBLISHED.register(
    "spiking_resnet",
    Published(
        models="vanilla_resnet18, 34, 50, 101 and 152 with the IF neuron of sew_resnet",
        branch="conv norm spike conv norm",
        project="conv norm",
        after="spike",
        keys=KeyMap(
            {
                **_SEW_COMMON,
                "layer{stage}.{unit}.downsample.module.0": "stages.{stage}.{unit}.skip.conv",
                "layer{stage}.{unit}.downsample.module.1": "stages.{stage}.{unit}.skip.norm",
            },
            first_stage=1,
        ),
    ),
)
PUBLISHED.register(
    "ds_resnet",
    Published(
        models="ds_resnet14, 20, 32, 44 and 68",
        branch="conv norm spike conv norm spike",
        project="conv norm spike",
        factor_apart=True,
        keys=KeyMap(
            {
                "conv1": "stem.conv",
                "bn0.bn": "stem.input_norm",
                "bn1.bn": "stem.norm",
                "layer{stage}.execute.{unit}.conv{n}": "stages.{stage}.{unit}.branch.conv{n}",
                "layer{stage}.execute.{unit}.bn{n}.bn": "stages.{stage}.{unit}.branch.norm{n}",
                "layer{stage}.execute.{unit}.shortcut.0": "stages.{stage}.{unit}.skip.conv",
                "layer{stage}.execute.{unit}.shortcut.1.bn": "stages.{stage}.{unit}.skip.norm",
                "voting": "head.fc",
            },
            first_stage=1,
        ),
    ),
)


def load_published(model: SpikingResNet, path: Path | str, *, source: str | None = None) -> None:
    """Load a checkpoint that the authors of MS-ResNet, SEW-ResNet or DS-ResNet published.

    Every weight in the file must have its place in the model, and every one of the model must be in the file. Norms
    with a constant factor get the file's weight divided by it where the authors' norms have none, so that they compute
    the same. Neuron, T, join and eps are those of the model: a file says nothing of them, and the presets are the
    authors'.

    Args:
        model: Its units must be made of the words that the weights were trained in.
        path: File of ``torch.save`` or safetensors.
        source: Name in ``PUBLISHED``; None: the one that knows most of the names in the file.

    Raises:
        CheckpointError: the file cannot be read without running foreign code; a name or a shape does not fit; or the
            weights are those of other units. The model is then as it was.
        UnknownName: no such source.
    """
    tensors = read_state_dict(path)
    source = _likely_source(tensors, path) if source is None else source
    published = PUBLISHED[source]
    _check_unit(model, published, path)
    own = published.keys.rename_all(tensors, str(path), source)
    own = own if published.factor_apart else without_scale(model, own)
    load_weights(model, {**fixed_affines(model), **own}, str(path))
    model.initialised_from = None  # type: ignore[assignment]


def _likely_source(tensors: Mapping[str, Tensor], path: Path | str) -> str:
    known = {name: sum(row.keys.rename(key) is not None for key in tensors) for name, row in _rows()}
    likely = max(known, key=lambda name: known[name])
    if not known[likely]:
        raise CheckpointError(
            f"no source gives a weight a name as in {path}, such as '{brief(next(iter(tensors)))}': "
            f"there are {', '.join(PUBLISHED)}"
        )
    return likely


def _rows() -> list[tuple[str, Published]]:
    return [(name, PUBLISHED[name]) for name in PUBLISHED]


def _check_unit(model: SpikingResNet, published: Published, path: Path | str) -> None:
    row = model.topology
    own = (" ".join(row.branch(2)), row.after, row.project)
    theirs = (published.branch, published.after, published.project)
    for part, words, trained in zip(("branch", "after", "project"), own, theirs, strict=True):
        if words != trained:
            raise CheckpointError(
                f"the weights in {path} are for {published.models}: their units have '{trained}' as {part}, "
                f"this model's '{words}'"
            )
