"""A run folder as the commands would write it, under hostile names, and what a browser would find in its report."""

import json
from html.parser import HTMLParser

import torch

import isospike as iso
from isospike.analysis import picture_recording, record_raster
from isospike.config import parse_yaml, read_config
from isospike.run_folder import RunFolder, write_json
from isospike.train.watching import flow_record

HOSTILE = "</script><script>alert(1)</script><b>&\"'"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
CONFIG = """
recipe: trial
model: {name: ms_resnet8}
data: {kind: digits}
optim: {kind: sgd, lr: 0.1}
schedule: {kind: constant}
train: {epochs: 2, batch_size: 32}
"""


def isometry_result(phis=(1.0, 1.25, 0.875), error=0.25):
    """As ``isospike analyze`` writes it."""

    def interval(value):
        return {"value": value, "low": value - error, "high": value + error}

    units = [
        {
            "name": HOSTILE,
            "index": n,
            "projects": n == 2,
            "phi": interval(phi),
            "varphi": interval(0.5),
            "expected": None,
        }
        for n, phi in enumerate(phis, start=1)
    ]
    units[-1]["expected"] = {"phi": 0.8, "varphi": 0.4}
    said = {"rule": "trains", "text": f"trains {HOSTILE}", "reason": HOSTILE}
    return {
        "model": HOSTILE, "checkpoint": HOSTILE, "images": HOSTILE, "T": 4, "batch": 8, "probes": 4, "seed": 0,
        "verdict": {**said, "notes": [{**said, "text": "a note"}]}, "log10_product": interval(0.1), "units": units,
        "gradients": {"loss": 2.0, "inputs": {"a": 0.1, HOSTILE: 0.2}, "weights": {"w": 0.3, "v": 0.0}},
    }  # fmt: skip


def make_run(folder, *, steps=40, classes=("a", "b", HOSTILE), torn=False, tested=True, analyzed=False):
    run = RunFolder(folder)
    config = read_config({**parse_yaml(CONFIG, "x"), "recipe": HOSTILE}, "x")
    run.create(config, {"cpu": HOSTILE, "packages": {"torch": "2"}, "gpu": None})
    lines = []
    for step in range(1, steps + 1):
        record = {"kind": "step", "split": "train", "epoch": 1, "step": step, "loss": 2 / step, "accuracy": 0.5}
        record |= {
            "lr": 0.1,
            "grad_norm": 1 / step,
            "images_per_s": 100.0,
            "peak_memory_mb": 50.0,
            "seconds": step * 90.0,
        }
        lines.append(record)
    for split in ("train", "test"):
        if steps:
            lines.append({"kind": "epoch", "split": split, "epoch": 1, "step": steps, "loss": 0.5, "accuracy": 0.75})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run.metrics.write_text(text + ('{"kind": "st' if torn else ""))
    write_json(run.analysis("data"), {"name": HOSTILE, "classes": list(classes), "note": "JPEG copy"})
    if tested:
        K = len(classes)
        matrix = [[8 if row == column else int(column == 0) for column in range(K)] for row in range(K)]
        result = {"images": 26, "checkpoint": "last", "accuracy": 0.9, "classes": list(classes), "confusion": matrix}
        write_json(run.analysis("test"), {**result, "accuracy_after": [0.5, 0.9]})
        image = {"index": HOSTILE, "true": HOSTILE, "guess": "a", "probability": 0.75, "png": HOSTILE}
        write_json(run.analysis("confused"), {"images": [{**image, "index": 7, "png": PIXEL}, image]})
    if analyzed:
        write_json(run.analysis("isometry"), isometry_result())
    return run


class Page(HTMLParser):
    """Headings, charts, and all that a browser would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.specs, self.fetched, self.scripts, self.text = [], [], [], 0, ""
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self._inside = tag
        if tag == "script":
            self.scripts += "type" not in attributes
            self._inside = attributes.get("type", "script")
        self.fetched += [
            v for k, v in attributes.items() if k in ("src", "srcset", "href") and not v.startswith(("#", "data:"))
        ]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "h2":
            self.headings.append(data)
        elif self._inside == "application/json":
            self.specs.append(json.loads(data))
        elif self._inside != "script":
            self.text += data


def read(run):
    return Page(run.report.read_text())


def measure(run, name="ms_resnet8", T=2):
    """What ``isospike energy`` and watching in training would leave, of a new network."""
    images, network = torch.randn(2, 3, 8, 8), iso.create_model(name, T=T)
    with iso.watch(network) as seen:
        network(images)
    facts = {"data": HOSTILE, "note": HOSTILE, "checkpoint": HOSTILE}
    energy, flow = iso.measure_energy(network, images).as_dict(), seen.flow().as_dict()
    energy["table"] |= {"name": HOSTILE, "source": HOSTILE}
    energy["groups"][HOSTILE] = energy["groups"]["stem"]
    energy["layers"][0]["layer"] = HOSTILE
    flow["neurons"][0]["name"] = flow["units"][0]["name"] = HOSTILE
    raster = record_raster(network, images[:1]).as_dict()
    raster["populations"][0]["name"] = HOSTILE
    write_json(run.analysis("energy"), {**facts, **energy})
    write_json(run.analysis("flow"), {**facts, **flow})
    write_json(run.analysis("raster"), {**facts, "image": 3, "true": HOSTILE, "guess": HOSTILE, **raster})
    recording = picture_recording(iso.create_model(name, T=T, in_channels=2), *[torch.ones(T, 1, 2, 8, 8)] * 2)
    recording["layers"][0]["name"] = HOSTILE
    write_json(run.analysis("recording"), {**facts, "image": 3, "true": HOSTILE, "guess": HOSTILE, **recording})
    watched = flow_record(seen.flow())
    watched["neurons"]["name"][0] = watched["units"]["name"][0] = HOSTILE
    lines = [json.dumps({"epoch": 1, "step": step, **watched}) + "\n" for step in (1, 51, 101)]
    run.flow.write_text("".join(lines))
    return energy, flow
