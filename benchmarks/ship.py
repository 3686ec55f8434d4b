"""Makes the folder of weights that come with the package of a run that has ended.

    python benchmarks/ship.py RUN NAME

NAME is what ``create_model(..., weights=NAME)`` takes; the folder is ``src/isospike/weights/shipped/MODEL.NAME``.
"""

import hashlib
import json
import sys
from pathlib import Path

import isospike as iso
from isospike.run_folder import RunFolder, read_json, write_json
from isospike.weights.pretrained import CONFIG, WEIGHTS
from isospike.weights.shipped import CARD, FOLDER


def ship(run: RunFolder, name: str) -> Path:
    """Write the folder; what was in it is replaced."""
    config, env = run.read_config(), read_json(run.environment)
    model = iso.from_pretrained(run.path)
    folder = FOLDER / f"{config.model.name}.{name}"
    iso.save_pretrained(model, folder)
    epochs = [r for r in run.read_metrics() if r["kind"] == "epoch"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in epochs))
    tests = [record for record in epochs if record["split"] == "test"]
    card = {
        "recipe": config.recipe,
        "command": f"isospike train --recipe {config.recipe}",
        "data": config.data.kind,
        "epochs": config.train.epochs,
        "seed": config.seed,
        "accuracy": tests[-1]["accuracy"],
        "test_images": read_json(run.analysis("data"))["test_images"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "isospike": env["packages"]["isospike"],
        "torch": env["packages"]["torch"],
        "cpu": env["cpu"],
        "date": env["started"][:10],
    }
    write_json(folder / CARD, card)
    return folder


if __name__ == "__main__":
    folder = ship(RunFolder(sys.argv[1]), sys.argv[2])
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder.name}: {size / 1e6:.2f} MB ({WEIGHTS}, {CONFIG}, {CARD}, metrics.jsonl)")
