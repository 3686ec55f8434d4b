"""Tables of docs/evidence/conversion.md from the logs of ``conversion.py``.

python benchmarks/conversion_table.py > TABLES.md
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from cifar_anns import DEPTHS
from common import LOGS
from conversion import PEERS, QCFS_ROWS, ROWS

BESIDE = ("calibrated by channel, at every T", "percentile by channel", "spikingjelly, 99.9 %")
ABLATIONS = {
    "s_resnet": "both parts",
    "s_resnet, no shortcut conversion": "shortcuts as they are",
    "s_resnet, no compensation": "no compensation",
    "s_resnet, factor": "one factor on all weights instead",
}
STEPS = ("1", "2", "4", "8", "16", "32", "64", "128", "350")


def line(name: str, row: dict[str, Any]) -> str:
    """Accuracy at every T, and what was counted."""
    accuracy = [f"{100 * row['accuracy'][t]:.0f}" if t in row["accuracy"] else "" for t in STEPS]
    last = row["agreement"][str(row["T"])] if str(row["T"]) in row["agreement"] else [*row["agreement"].values()][-1]
    counted = row.get("counted")
    cells = ["", "", ""]
    if counted:
        share = counted["ann_mj"]
        energies = f"{counted['mj'] / share:.2f} / {counted['mj_of_messages'] / share:.2f}"
        cells = [f"{counted['spikes_per_neuron']:.2f}", energies, str(counted["T"])]
    seconds = [f"{row['cpu_seconds'][name]:.0f}" for name in ("convert", "simulate")]
    return "| " + " | ".join([name, str(row["digits"]), *accuracy, f"{100 * last:.0f}", *cells, *seconds]) + " |"


def table(log: dict[str, Any]) -> list[str]:
    """The rows of one ANN."""
    error = 100 * math.sqrt(log["ann"] * (1 - log["ann"]) / log["images"])
    kind = {"published": "as published", "finetuned": "trained on", "qcfs": "trained on with QCFS"}[log["weights"]]
    head = ["method", "digits", *(f"T={t}" for t in STEPS), "as the ANN", "spikes", "energy", "at T", "convert", "run"]
    return [
        f"**ResNet-{log['depth']} {kind}**: ANN {100 * log['ann']:.0f} % of {log['images']} test images, "
        f"{log['data']}, standard error {error:.1f} points; {log['calibration']} training images for calibration.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *(line(name, log["rows"][name]) for name in (*ROWS, *QCFS_ROWS, *PEERS) if name in log["rows"]),
        "",
    ]


def decisions(log: dict[str, Any], names: Mapping[str, str]) -> list[str]:
    """Decisions that are the ANN's, of these rows with these names; nothing where not all but the last were run."""
    if not {*list(names)[:3]} <= {*log["rows"]}:
        return []
    found = [(called, log["rows"][name]["agreement"]) for name, called in names.items() if name in log["rows"]]
    return [
        f"Decisions of ResNet-{log['depth']} that are the ANN's, in percent of the {log['images']} images:",
        "",
        "| method | " + " | ".join(f"T={t}" for t in STEPS) + " |",
        "|" + "---|" * (len(STEPS) + 1),
        *(
            f"| {name} | " + " | ".join(f"{100 * a[t]:.1f}" if t in a else "" for t in STEPS) + " |"
            for name, a in found
        ),
        "",
    ]


def main() -> None:
    for depth in DEPTHS:
        for kind in ("published", "finetuned", "qcfs"):
            logs = [json.loads(path.read_text()) for path in LOGS.glob(f"conversion_{depth}_{kind}_*.json")]
            for log in sorted(logs, key=lambda log: -log["images"]):
                beside = decisions(log, {name: name for name in BESIDE})
                print("\n".join(table(log) + beside + decisions(log, ABLATIONS)))


if __name__ == "__main__":
    main()
