"""Accuracy of converted CIFAR-10 ResNets against time steps, by method, beside their ANNs and SpikingJelly's converter.

    ISOSPIKE_DATA=DIR python benchmarks/conversion.py --depth 20 --images 100 --only s_resnet
    ISOSPIKE_DATA=DIR python benchmarks/conversion.py --depth 20 --images 100 --peers PYTHON

DIR holds ``ann/`` with the ResNets of akamaster/pytorch_resnet_cifar10, and ``cifar10/``; ``--weights FOLDER`` takes
those that ``finetune.py`` wrote instead. Calibration is on training images; all methods see the same ones, and the
same test images, equally many of every class. A network is converted for the T of its row and run once: its accuracy
at fewer steps is that of its first steps. Rows "at every T" convert anew for each number of steps. Seconds are those
of the processor. Rows are added to the log as they are measured. PYTHON is the interpreter of the peers' environment
(``isospike bench --setup``).
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import isospike as iso
from captured_anns import THRESHOLD, ann_of
from cifar_anns import DEPTHS, normalised, stratified, weights_of
from common import LOGS, header, save
from isospike.conversion.activations import rectified
from isospike.conversion.evaluation import decisions_by_step, decisions_of
from isospike.conversion.lowering import Plan, lower
from isospike.conversion.methods import from_half
from isospike.data import load_dataset
from isospike.data.cifar import CifarData
from isospike.models import ProgramNet

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 350)
WATCHED, WATCHED_T = 4, 32  # images, and digits x T at the most, of which spikes and energy are counted
PJ = 1e-9  # in millijoules
PEER = Path(__file__).parent / "conversion_peer.py"


@dataclass(frozen=True)
class Row:
    """A method with its options.

    Args:
        method: Its name.
        T: Steps that it is converted for.
        digits: Binary digits of what a neuron puts out at a step: networks are compared at equal digits x T too.
        options: Other options of the method.
        anew: Whether each number of steps has a network of its own, which was converted for it.
    """

    method: str
    T: int
    digits: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    anew: bool = False


ROWS = {
    "s_resnet": Row("s_resnet", 350),
    "s_resnet, 99.99 %": Row("s_resnet", 350, options={"quantile": 0.9999}),
    "s_resnet, no shortcut conversion": Row("s_resnet", 350, options={"shortcuts": False}),
    "s_resnet, no compensation": Row("s_resnet", 350, options={"compensation": "none"}),
    "s_resnet, factor": Row("s_resnet", 350, options={"compensation": "factor"}),
    "max": Row("max", 350),
    "percentile": Row("percentile", 350),
    "percentile by channel": Row("percentile", 350, options={"per_channel": True}),
    "percentile, 99.99 %": Row("percentile", 350, options={"quantile": 0.9999}),
    "balancing": Row("balancing", 350),
    "mmse": Row("mmse", 350),
    "mmse by channel": Row("mmse", 350, options={"per_channel": True}),
    "calibrated": Row("calibrated", 350),
    "calibrated by channel": Row("calibrated", 350, options={"per_channel": True}),
    "mmse by channel, at every T": Row("mmse", 350, options={"per_channel": True}, anew=True),
    "calibrated by channel, at every T": Row("calibrated", 350, options={"per_channel": True}, anew=True),
    "ltb": Row("ltb", 350),
    "mmse, 15 levels": Row("mmse", 350, 4, {"levels": 15}),
    "multi_threshold, 1": Row("multi_threshold", 350, 1, {"thresholds": 1}),
    "multi_threshold, 2": Row("multi_threshold", 350, 2, {"thresholds": 2}),
    "multi_threshold, 4": Row("multi_threshold", 350, 4),
    "multi_threshold, 4, gaussian": Row("multi_threshold", 350, 4, {"choice": "gaussian"}),
    "multi_threshold, 8": Row("multi_threshold", 350, 8, {"thresholds": 8}),
    "differential, 1": Row("differential", 350, 1, {"thresholds": 1}),
    "differential, 4": Row("differential", 350, 4),
}
QCFS_ROWS = {  # of ANNs that were trained with it
    "qcfs": Row("qcfs", 350),
    "qcfs, calibrated": Row("qcfs", 350, options={"calibrate": True}),
}
PEERS = {"spikingjelly, max": "max", "spikingjelly, 99.9 %": "robust", "spikingjelly, ltb": "ltb"}


def at_steps(decisions: Tensor, T: int) -> dict[int, Tensor]:
    """Decisions ``[T, N]`` at the steps of the table."""
    return {t: decisions[t - 1] for t in STEPS if t <= T}


def shares(decisions: dict[int, Tensor], wanted: Tensor) -> dict[int, float]:
    """The share of decisions that are as wanted ``[N]``, at every number of steps."""
    return {t: float((decided == wanted).double().mean()) for t, decided in decisions.items()}


def measure(row: Row, ann: ProgramNet, calibration: Tensor, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Convert, run, and count what the network for most steps does."""
    truth = decisions_of(ann, images)
    decisions, converting, simulating = {}, 0.0, 0.0
    for T in [t for t in STEPS if t <= row.T] if row.anew else [row.T]:
        began = time.process_time()
        net = iso.convert(ann, calibration.split(128), method=row.method, T=T, **row.options)
        converted = time.process_time()
        found = at_steps(decisions_by_step(net, images, T), T)
        decisions |= {T: found[T]} if row.anew else found
        converting, simulating = converting + converted - began, simulating + time.process_time() - converted
    return {
        "method": row.method,
        "options": row.options,
        "T": row.T,
        "digits": row.digits,
        "anew": row.anew,
        "accuracy": shares(decisions, labels),
        "agreement": shares(decisions, truth),
        "counted": counted(net, images[:WATCHED], min(row.T, WATCHED_T // row.digits)),
        "cpu_seconds": {"convert": converting, "simulate": simulating},
    }


def counted(net: ProgramNet, images: Tensor, T: int) -> dict[str, Any]:
    """Spikes and energy of T steps."""
    energy = iso.measure_energy(net, images, T=T)
    behind = [layer for layer in energy.work.layers if layer.group != "stem"]
    repeats = sum(layer.graded_acs - layer.acs for layer in behind) * energy.table.ac_pj * PJ
    return {
        "T": T,
        "spikes_per_neuron": energy.spikes_per_neuron,
        "mj": energy.mj["stem_once"],
        "mj_of_messages": energy.mj["stem_once"] - repeats,  # an integer added at once, not 1 by 1
        "ann_mj": energy.mj["ann"],
    }


def measure_peer(
    recipe: str, python: Path, T: int, weights: dict[str, Tensor], ann: ProgramNet, tensors: dict[str, Tensor]
) -> Any:
    """The same by SpikingJelly, in a process of its own; where it tells its thresholds, by our neurons with them."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.pt"
        torch.save({"weights": weights, "T": T, "recipe": recipe, **tensors}, job)
        subprocess.run([str(python), str(PEER), str(job)], check=True)
        answer = torch.load(job, weights_only=True)
    decisions, thresholds = at_steps(answer.pop("decisions"), T), answer.pop("thresholds")
    if thresholds:
        plan = Plan(dict(zip(rectified(ann.program), thresholds, strict=True)), from_half)
        own = at_steps(decisions_by_step(lower(ann, plan, T), tensors["images"], T), T)
        answer["ours_with_its_thresholds"] = {
            "accuracy": shares(own, tensors["labels"]),
            "same_decisions": {t: float((own[t] == decisions[t]).double().mean()) for t in own},
        }
    return {
        "method": recipe,
        "T": T,
        "digits": 1,
        "accuracy": shares(decisions, tensors["labels"]),
        "agreement": shares(decisions, tensors["truth"]),
        **answer,
    }


def add(name: str, fields: dict[str, Any], row: str, result: dict[str, Any]) -> None:
    """Write a row into its log, beside those of earlier calls on the same images."""
    path = LOGS / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    if any(before.get(key, value) != value for key, value in fields.items() if key != "header"):
        before = {"rows": {}}
    save(name, {**fields, "rows": {**before["rows"], row: {"header": fields["header"], **result}}})
    print(f"{row}: " + ", ".join(f"T={T} {a:.1%}" for T, a in result["accuracy"].items()), flush=True)
    print(f"    agreement {[round(a, 3) for a in result['agreement'].values()]}, {result['cpu_seconds']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=20, choices=DEPTHS)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--weights", type=Path, help="folder of finetune.py")
    parser.add_argument("--only", action="append", choices=[*ROWS, *QCFS_ROWS, *PEERS])
    parser.add_argument("--T", type=int, help="at most so many steps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers", type=Path, help="interpreter of the peers' environment")
    arguments = parser.parse_args()
    folder = Path(os.environ["ISOSPIKE_DATA"])
    dataset = load_dataset(CifarData(kind="cifar10", dir=str(folder / "cifar10")))
    weights = weights_of(arguments.weights or folder / "ann", arguments.depth)
    calibration = normalised(dataset.train.images[: arguments.calibration])
    chosen = stratified(dataset.test.labels, arguments.images)
    images, labels = normalised(dataset.test.images[chosen]), dataset.test.labels[chosen]
    calibration, images, labels = (x.to(arguments.device) for x in (calibration, images, labels))
    ann = ann_of(weights, calibration)
    truth = decisions_of(ann, images)
    accuracy = float((truth == labels).double().mean())
    print(f"ResNet-{arguments.depth}, ANN: {accuracy:.2%} of {len(labels)} images", flush=True)
    quantised = any(name.endswith(THRESHOLD) for name in weights)
    kind = "qcfs" if quantised else "finetuned" if arguments.weights else "published"
    command = f"benchmarks/conversion.py --depth {arguments.depth} --images {arguments.images}"
    command += " --weights FOLDER" if arguments.weights else ""
    command += f" --device {arguments.device}" if arguments.device != "cpu" else ""
    name = f"conversion_{arguments.depth}_{kind}_{len(labels)}"
    fields = {
        "header": header(f"ISOSPIKE_DATA=DIR python {command}"),
        "depth": arguments.depth,
        "weights": kind,
        "images": len(labels),
        "calibration": arguments.calibration,
        "data": dataset.note,
        "ann": accuracy,
    }
    limit = arguments.T or max(STEPS)
    for row in arguments.only or [*(QCFS_ROWS if quantised else ROWS), *(PEERS if arguments.peers else ())]:
        if row not in PEERS:
            spec = (ROWS | QCFS_ROWS)[row]
            spec = replace(spec, T=min(limit, spec.T))
            add(name, fields, row, measure(spec, ann, calibration, images, labels))
        else:
            tensors = {"calibration": calibration, "images": images, "labels": labels, "truth": truth}
            add(name, fields, row, measure_peer(PEERS[row], arguments.peers, limit, weights, ann, tensors))


if __name__ == "__main__":
    main()
