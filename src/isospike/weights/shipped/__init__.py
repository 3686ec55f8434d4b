"""Small trained networks that come with the package, a folder each: ``{model}.{weights}``.

Each holds ``config.json`` and ``model.safetensors`` (with its hash) as ``save_pretrained`` writes them, ``card.json``
with the command that trained it and what it reached, and ``metrics.jsonl``, the log of its epochs.
``benchmarks/ship.py`` makes such a folder of a run.
"""

from functools import partial
from pathlib import Path
from typing import Any

from isospike.models import WEIGHTS, SpikingResNet
from isospike.weights.pretrained import from_pretrained

FOLDER = Path(__file__).parent
CARD = "card.json"


def shipped_weights() -> dict[str, dict[str, Any]]:
    """List what comes with the package, by name ``{model}.{weights}``, each with its card.

    A card holds: ``recipe``, ``command``, ``data``, ``epochs``, ``seed``, ``accuracy`` (share of the test images, last
    epoch), ``test_images``, ``parameters``, ``sha256`` of the file of the weights, ``isospike``, ``torch``, ``date``.
    """
    from isospike.run_folder import read_json  # here: it brings pydantic, which importing isospike does without

    return {folder.name: read_json(folder / CARD) for folder in _folders()}


def _folders() -> list[Path]:
    return sorted(path.parent for path in FOLDER.glob(f"*/{CARD}"))


def _load(folder: Path, **changes: Any) -> SpikingResNet:
    model = from_pretrained(folder, **changes)
    assert isinstance(model, SpikingResNet), "only networks of rows come with the package"
    return model


for _folder in _folders():
    WEIGHTS.register(_folder.name, partial(_load, _folder))
