"""Tables of docs/evidence/conversion.md from the logs of ``conversion.py``.

python benchmarks/conversion_table.py > TABLES.md
"""

import json
import math
from typing import Any

from cifar_anns import DEPTHS
from common import LOGS

BESIDE = ("calibrated by channel, at every T", "percentile by channel", "spikingjelly, 99.9 %")
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
        *(line(name, row) for name, row in log["rows"].items()),
        "",
    ]


def decisions(log: dict[str, Any]) -> list[str]:
    """Decisions that are the ANN's, of our plain spikes and SpikingJelly's; nothing where its converter was not run."""
    found = [(name, log["rows"][name]["agreement"]) for name in BESIDE if name in log["rows"]]
    if BESIDE[-1] not in log["rows"]:
        return []
    steps = [t for t in STEPS if all(t in agreement for _, agreement in found)]
    return [
        f"Decisions of ResNet-{log['depth']} that are the ANN's, in percent of the {log['images']} images:",
        "",
        "| method | " + " | ".join(f"T={t}" for t in steps) + " |",
        "|" + "---|" * (len(steps) + 1),
        *(f"| {name} | " + " | ".join(f"{100 * a[t]:.1f}" for t in steps) + " |" for name, a in found),
        "",
    ]


def main() -> None:
    for depth in DEPTHS:
        for kind in ("published", "finetuned", "qcfs"):
            logs = [json.loads(path.read_text()) for path in LOGS.glob(f"conversion_{depth}_{kind}_*.json")]
            for log in sorted(logs, key=lambda log: -log["images"]):
                print("\n".join(table(log) + decisions(log)))


if __name__ == "__main__":
    main()
