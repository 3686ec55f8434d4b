"""Exported networks beside the model on real images: parity by format, and sizes of files.

    ISOSPIKE_DATA=DIR python benchmarks/export.py parity --readers ENV/bin/python [NETWORK ...]
    ISOSPIKE_DATA=DIR python benchmarks/export.py int8 [NETWORK ...]
    python benchmarks/export.py tables

DIR holds ``cifar10/`` and ``ann/``; ENV is an environment with ``nir_readers.txt``. Networks of the zoo have the
weights that they start with, and norms with the statistics of the images, so that all neurons have something to do; the
converted one is a trained ANN. ``tables`` writes the logs as Markdown.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

import isospike as iso
from cifar_anns import normalised, resnet, weights_of
from common import LOGS, header, save
from isospike.data import load_dataset
from isospike.data.cifar import CifarData
from isospike.layers import BatchNorm

HERE = Path(__file__).parent
BATCH, READ = 32, 4  # images for our own formats, and for readers of others
ROUNDED = 8  # for int8, which ONNX Runtime runs slowly
READERS = ("snntorch", "norse", "norse, in order", "sinabs", "sinabs, in order")
ZOO = {f"{topology}_resnet20": {} for topology in iso.TOPOLOGIES} | {
    "ms_resnet18": {"num_classes": 10},
    "sew_resnet18": {"num_classes": 10},
}
LARGE = ("ms_resnet18", "sew_resnet18")  # their stems halve the image twice: shown at 64 pixels
CONVERTED = "S-ResNet-20, converted"


def network(name):
    """A network in eval mode, and its images."""
    torch.manual_seed(0)
    folder = Path(os.environ["ISOSPIKE_DATA"])
    data = load_dataset(CifarData(kind="cifar10", dir=str(folder / "cifar10")))
    x = normalised(data.test.images[: 2 * BATCH])
    if name == CONVERTED:
        calibration = normalised(data.train.images[:256])
        return iso.convert(resnet(weights_of(folder / "ann", 20)), calibration, "s_resnet", T=32), x[:BATCH]
    model = iso.create_model(name, **ZOO[name])
    if name in LARGE:
        x = torch.nn.functional.interpolate(x, size=64, mode="bilinear")
    for norm in model.modules():
        if isinstance(norm, BatchNorm):
            norm.momentum = None  # the mean of all batches
            norm.reset_running_stats()
    model.train()(x)
    return model.eval(), x[:BATCH]


def same(found, expected):
    """How near logits ``[T, B, K]`` are: in the largest logit; shares are of images at steps."""
    found = torch.as_tensor(found)
    means = [logits.cumsum(0).argmax(-1) for logits in (found, expected)]
    apart = (found - expected).abs().amax(-1) / expected.abs().max()
    return {
        "within_rounding": float((apart <= 1e-5).double().mean()),
        "largest_difference": float(apart.max()),
        "same_class": float((means[0] == means[1]).double().mean()),
        "bits": bool(torch.equal(found, expected)),
    }


def by_onnx(model, x, folder):
    """Both forms in ONNX Runtime."""
    size, path = tuple(x.shape[-2:]), folder / "net.onnx"
    expected = model(x, per_step=True)
    iso.export_onnx(model, path, size=size)
    run = session(path)
    rows = {"static": same(run.run(["per_step"], {"x": x.numpy()})[0], expected)}
    rows["static"] |= {"megabytes": path.stat().st_size / 1e6, "nodes": len(onnx.load(path).graph.node)}
    iso.export_onnx(model, path, "step", size=size)
    run = session(path)
    rests = json.loads(run.get_modelmeta().custom_metadata_map["isospike"])["rests"]
    state = {
        given.name: np.full([len(x) if d == "B" else d for d in given.shape], rests[given.name], np.float32)
        for given in run.get_inputs()[1:]
    }
    logits = []
    for _ in range(model.T):
        outputs = dict(zip([o.name for o in run.get_outputs()], run.run(None, {"x": x.numpy(), **state}), strict=True))
        logits.append(outputs["logits"])
        state = {name: outputs[f"{name}.next"] for name in state}
    return rows | {"step": same(np.stack(logits), expected)}


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def by_onnx_in_int8(model, x, folder):
    """Beside our own int8 network."""
    path = folder / "net.onnx"
    iso.export_onnx(model, path, precision="int8", size=tuple(x.shape[-2:]))
    (logits,) = session(path).run(["per_step"], {"x": x.numpy()})
    expected = model.compile_for_inference("int8")(x, per_step=True)
    return same(logits, expected) | {"megabytes": path.stat().st_size / 1e6}


def by_nir(model, x, folder, readers):
    """Our own reader, and those of others."""
    path = folder / "net.nir"
    losses = iso.export_nir(model, path, lossy=True, size=tuple(x.shape[-2:]))
    net = iso.from_nir(path)
    row = {"losses": losses, "megabytes": path.stat().st_size / 1e6, "nodes": len(net.program.operations)}
    row["from_nir"] = same(net(x, per_step=True), model(x, per_step=True))
    if readers:
        row["readers"] = others(net, x[:READ], folder, readers)
    return row


def others(net, x, folder, readers):
    """Spikes of every neuron, image and step that another reader has otherwise."""
    seen = {}
    neurons = {name.removeprefix("nodes."): m for name, m in net.named_modules() if isinstance(m, iso.Neuron)}
    for name, neuron in neurons.items():
        neuron.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, []).append(out[0][0]))
    expected = net(x, per_step=True)
    spikes = {name: torch.stack(steps).numpy() for name, steps in seen.items()}
    np.savez(folder / "given.npz", x=x.numpy(), T=net.T)
    files = [folder / name for name in ("net.nir", "given.npz", "out.npz")]
    subprocess.run([readers, HERE / "nir_readers.py", *files], check=True, capture_output=True)
    with np.load(files[-1]) as archive:
        theirs = dict(archive)
    found = {}
    for reader in READERS:
        own = {key.removeprefix(f"{reader}/"): array for key, array in theirs.items() if key.startswith(f"{reader}/")}
        found[reader] = compared(own, spikes, expected.numpy())
    return found


def compared(theirs, spikes, logits):
    if "refused" in theirs:
        return {"refused": str(theirs["refused"])}
    if theirs["output"].size != logits.size:
        return {"refused": f"puts out {list(theirs['output'].shape)} in place of logits"}
    missing = [name for name in spikes if name in theirs and theirs[name].size != spikes[name].size]
    if missing:
        return {"refused": f"runs {missing[0]} another number of times"}
    pairs = [(spikes[name], theirs[name].reshape(spikes[name].shape)) for name in spikes if name in theirs]
    return {
        "spikes": sum(ours.size for ours, _ in pairs),
        "otherwise": sum(int((ours != other).sum()) for ours, other in pairs),
        **same(theirs["output"].reshape(logits.shape), torch.from_numpy(logits)),
    }


@torch.no_grad()
def parity(names, readers):
    """In every form, and in the readers of others."""

    def row(model, x, folder):
        return {"onnx": by_onnx(model, x, folder), "nir": by_nir(model, x, folder, readers)}

    measured("export_parity", "parity --readers ENV/bin/python", names, row, BATCH)


@torch.no_grad()
def int8(names):
    """With weights of 8 bits."""
    measured("export_int8", "int8", names, by_onnx_in_int8, ROUNDED)


def measured(log, words, names, row_of, images):
    """Row by row into a log, so that what is there stays."""
    file = LOGS / f"{log}.json"
    for name in names or [*ZOO, CONVERTED]:
        model, x = network(name)
        x = x[:images]
        with tempfile.TemporaryDirectory() as folder:
            row = {"T": model.T, "images": len(x), "size": x.shape[-1]} | row_of(model, x, Path(folder))
        rows = json.loads(file.read_text())["rows"] if file.is_file() else {}
        rows[name] = row
        print(name, json.dumps(row), flush=True)
        command = f"ISOSPIKE_DATA=DIR python benchmarks/export.py {words}"
        versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
        save(log, {"header": header(command) | versions, "data": "CIFAR-10, JPEG copy", "rows": rows})


def tables():
    """The logs as the tables of docs/export.md."""
    rows = json.loads((LOGS / "export_parity.json").read_text())["rows"]
    rows = {name: rows[name] for name in [*ZOO, CONVERTED] if name in rows}
    print("| network | T | ONNX `static` | ONNX `step` | MB | NIR | `from_nir` |\n|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        losses, static = len(row["nir"]["losses"]), row["onnx"]["static"]
        cells = [cell(static), cell(row["onnx"]["step"]), f"{static['megabytes']:.1f}"]
        cells += [f"{losses} losses" if losses else "exact", cell(row["nir"]["from_nir"])]
        print(f"| {name} | {row['T']} | {' | '.join(cells)} |")
    print(f"\n| network | spikes compared | {' | '.join(READERS)} |\n{'|---' * (len(READERS) + 2)}|")
    for name, row in rows.items():
        found = row["nir"]["readers"]
        total = max((other.get("spikes", 0) for other in found.values()), default=0)
        cells = ["refuses" if "refused" in other else f"{other['otherwise']:,}" for other in found.values()]
        print(f"| {name} | {total:,} | {' | '.join(cells)} |")


def rounded():
    """What ``int8`` measured."""
    print("\n| network | T | ONNX in int8, beside our int8 | MB |\n|---|---|---|---|")
    for name, row in json.loads((LOGS / "export_int8.json").read_text())["rows"].items():
        print(f"| {name} | {row['T']} | {cell(row)} | {row['megabytes']:.1f} |")


def latencies():
    """What ``isospike bench --suite export`` measured: medians and quartiles in milliseconds."""
    rows = json.loads((LOGS / "bench_export.json").read_text())["rows"]
    cases = [f"{row['model']}, batch {row['batch']}" for row in rows]
    print(f"\n| milliseconds | {' | '.join(cases)} | MB of the files |\n{'|---' * (len(cases) + 2)}|")
    for contestants in zip(*(row["contestants"] for row in rows), strict=True):
        seconds = [one["seconds"] for one in contestants]
        cells = [milliseconds(one["median"], *one["quartiles"]) for one in seconds]
        sizes = dict.fromkeys(f"{one['file']['megabytes']:.1f}" for one in contestants if "file" in one)
        print(f"| {contestants[0]['name']} | {' | '.join(cells)} | {', '.join(sizes) or '-'} |")


def milliseconds(*seconds):
    median, low, high = (f"{1e3 * one:,.0f}" if one >= 0.1 else f"{1e3 * one:.1f}" for one in seconds)
    return f"{median} ({low}-{high})"


def cell(row):
    if row["bits"]:
        return "same bits"
    return f"{row['within_rounding']:.1%}, {row['same_class']:.1%}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["parity", "int8", "tables"])
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--readers", metavar="PYTHON")
    arguments = parser.parse_args()
    if arguments.what == "parity":
        parity(arguments.networks, arguments.readers)
    elif arguments.what == "int8":
        int8(arguments.networks)
    else:
        tables()
        rounded()
        latencies()


if __name__ == "__main__":
    main()
