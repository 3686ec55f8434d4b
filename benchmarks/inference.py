"""Inference of three networks: eval, compiled in float32 and int8, and their convolutions alone.

    python benchmarks/inference.py
    python benchmarks/inference.py --accuracy RUN --data-dir DIR

Times are of one process with all cores, with norms as if trained, on random images; the convolutions (float32,
channels-last, same shapes) run in turn with the rest. The second form compares accuracies of a trained run on its test
images.
"""

import argparse

import torch

import isospike as iso
import step
from common import header, interleaved, save
from isospike.config import with_data_dir
from isospike.data import Augment, Loader, load_dataset
from isospike.evaluation import evaluate
from isospike.evaluation.fast import FastNetwork
from isospike.layers import BatchNorm
from isospike.malloc import keep_freed_memory
from isospike.processes import open_world
from isospike.run_folder import RunFolder
from isospike.train.build import load_trained

MODELS = {"ms_resnet20": {}, "sew_resnet20": {}, "ms_resnet18": {"stem": "cifar", "num_classes": 10}}
BATCHES = (32, 1)


def lively(model):
    """Norms that let all neurons have something to do."""
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, BatchNorm):
            with torch.no_grad():
                norm.weight.uniform_(0.4, 1.2)
                norm.bias.uniform_(-0.1, 0.4)
                norm.running_var.uniform_(0.05, 0.2)
    return model.eval()


def measure(name, batch, repeats):
    model = lively(iso.create_model(name, T=step.T, **MODELS[name]))
    x = torch.randn(batch, 3, step.SIZE, step.SIZE)
    step.BATCH = batch
    nets = {"float32": model.compile_for_inference(), "int8": model.compile_for_inference("int8")}

    def infer():
        with torch.no_grad():
            model(x)

    works = {"eval": infer, "convolutions": step.convolutions(name)[1]}
    works |= {precision: lambda net=net: net(x) for precision, net in nets.items()}
    times = interleaved(works, repeats, warm_up=3)
    alone = times["convolutions"]["median"]
    ratios = {work: spent["median"] / alone for work, spent in times.items()}
    print(
        f"{name}, batch {batch}: "
        + ", ".join(f"{work} {t['median'] * 1e3:.1f} ms ({ratios[work]:.2f}x)" for work, t in times.items())
    )
    return {"model": name, "batch": batch, "seconds": times, "ratio_to_convolutions": ratios}


def accuracies(run, data_dir, checkpoint):
    """Of eval, and compiled in both precisions, on the test images."""
    folder = RunFolder(run)
    config = with_data_dir(folder.read_config(), data_dir)
    dataset = load_dataset(config.data)
    augment = Augment(config.augment, dataset.mean, dataset.std, len(dataset.classes))
    found = {}
    with open_world("cpu") as world:
        model = load_trained(
            folder, config, num_classes=len(dataset.classes), in_channels=dataset.channels, which=checkpoint
        )
        for name in ("eval", "float32", "int8"):
            net = model if name == "eval" else FastNetwork(model, name)
            loader = Loader(dataset.test, config.train.test_batch_size, shuffle=False)
            found[name] = evaluate(net, loader, augment, world).accuracy
            print(f"{name}: {found[name]:.2%}")
    return {
        "model": config.model.name,
        "data": dataset.name,
        "note": dataset.note,
        "images": len(dataset.test),
        "checkpoint": checkpoint,
        "accuracy": found,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--accuracy", metavar="RUN")
    parser.add_argument("--checkpoint", default="last")
    parser.add_argument("--data-dir")
    arguments = parser.parse_args()
    keep_freed_memory()
    if arguments.accuracy:
        result = accuracies(arguments.accuracy, arguments.data_dir, arguments.checkpoint)
        command = "python benchmarks/inference.py --accuracy RUN --data-dir DIR"
        save("inference_accuracy", {"header": header(command), **result})
        return
    step.MODELS = MODELS
    rows = [measure(name, batch, arguments.repeats) for name in MODELS for batch in BATCHES]
    save(
        "inference", {"header": header("python benchmarks/inference.py"), "T": step.T, "size": step.SIZE, "rows": rows}
    )


if __name__ == "__main__":
    main()
