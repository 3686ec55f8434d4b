"""What docs/evidence/events.md shows: data for its runs, and the numbers of these runs.

    python benchmarks/event_evidence.py nmnist ARCHIVE FOLDER
    python benchmarks/event_evidence.py subset CIFAR10 FOLDER
    python benchmarks/event_evidence.py collect RUN...

ARCHIVE is NMNISTsmall of SLAYER's tests, unpacked (400 recordings of N-MNIST, .bs2, with two lists of labels); it is
laid out as N-MNIST's own folders. A subset is 3,000 training and 500 test images of each class its share, in parquet
files as they are. What is known of the runs goes to docs/evidence/events.json.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from common import header
from isospike.data.dataset import stratified
from isospike.run_folder import RunFolder, write_json

EVIDENCE = Path(__file__).parent.parent / "docs" / "evidence" / "events.json"
LISTS = {"train1K.txt": ("Train", 0), "test100.txt": ("Test", 60_000)}
COUNTS = {"train": 3_000, "test": 500}


def nmnist(archive: Path, folder: Path) -> None:
    for name, (split, first) in LISTS.items():
        for line in (archive / name).read_text().splitlines()[1:]:
            number, digit = line.split()
            source = archive / f"{number}.bs2"
            if source.is_file():  # the list of 1,000 has 300 recordings
                target = folder / split / digit / f"{int(number) - first:05}.bin"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)


def subset(cifar: Path, folder: Path) -> None:
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        (shard,) = cifar.glob(f"**/{split}-*.parquet")
        table = parquet.read_table(shard)
        kept = stratified(torch.tensor(table["label"].to_pylist()), count).sort().values
        parquet.write_table(table.take(kept.tolist()), folder / shard.name)


def collect(runs: list[Path]) -> None:
    rows = {path.name: facts(RunFolder(path)) for path in runs}
    write_json(EVIDENCE, {"header": header("python benchmarks/event_evidence.py collect RUN..."), "runs": rows})


def facts(run: RunFolder) -> dict[str, Any]:
    """The recipe and what was changed of it, its curves, and what was measured."""
    config, data, energy = run.read_config(), run.read_analysis("data") or {}, run.read_analysis("energy")
    epochs = [record for record in run.read_metrics() if record["kind"] == "epoch"]
    return {
        "recipe": config.recipe,
        "seed": config.seed,
        "epochs": config.train.epochs,
        "weights": None if config.train.weights is None else Path(config.train.weights).name,
        "data": {key: data.get(key) for key in ("name", "note", "train_images", "test_images", "empty_frames")},
        "ended": run.read_analysis("test") is not None,
        "test_by_epoch": [record["accuracy"] for record in epochs if record["split"] == "test"],
        "train_by_epoch": [record["accuracy"] for record in epochs if record["split"] == "train"],
        "energy": energy,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    for name, source in {"nmnist": "archive", "subset": "cifar"}.items():
        command = commands.add_parser(name)
        command.add_argument(source, type=Path)
        command.add_argument("folder", type=Path)
    commands.add_parser("collect").add_argument("runs", type=Path, nargs="+")
    arguments = vars(parser.parse_args())
    {"nmnist": nmnist, "subset": subset, "collect": collect}[arguments.pop("command")](**arguments)


if __name__ == "__main__":
    main()
