"""Eval of four networks: modules step by step, all steps at once, compiled, and a step of a stream; T=4, 32x32.

    python benchmarks/eval_pass.py

Neurons are as active as ``lively`` makes them; all ways run in turn in one process, with all cores and with one. Beside
them: how long it takes to see whether the weights are still the same, which eval does at every call.
"""

import argparse
import sys

import torch

import isospike as iso
import step
from common import header, interleaved, save
from inference import lively
from isospike.malloc import keep_freed_memory

MODELS = {"ms_resnet20": {}, "sew_resnet20": {}, "ds_resnet20": {}, "ms_resnet18": {"stem": "cifar", "num_classes": 10}}
CASES = ((32, None), (1, None), (32, 1), (1, 1))  # batch, and threads; None: all cores


@torch.no_grad()
def measure(name, batch, repeats):
    model = lively(iso.create_model(name, T=step.T, **MODELS[name]))
    x = torch.randn(batch, 3, step.SIZE, step.SIZE)
    step.BATCH, net, anew = batch, model.compile_for_inference(), model.compile_for_inference()
    anew._replayed = lambda *_: None
    maps, states = net.begin(x), {}
    net.step(maps, states, 0, batch)
    works = {
        "step by step": lambda: model._step_by_step(x.unsqueeze(0), step.T, model._logits),
        "eval": lambda: model(x),
        "compiled": lambda: net(x),
        "compiled, no pass made again": lambda: anew(x),
        "one step of a stream": lambda: model.step(x),
        "the same, compiled": lambda: net.step(maps, states, 1, batch),
        "looking at the weights": lambda: model._eval_pass("logits", x.unsqueeze(0), model._logits),
    }
    times = interleaved(works, repeats, warm_up=4)
    gain = times["step by step"]["median"] / times["eval"]["median"]
    threads = torch.get_num_threads()
    spent = ", ".join(f"{work} {t['median'] * 1e3:.1f} ms" for work, t in times.items())
    print(f"{name}, batch {batch}, {threads} threads: {spent}; {gain:.2f}x", flush=True)
    return {"model": name, "batch": batch, "threads": threads, "seconds": times, "gain": gain}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, choices=sorted({batch for batch, _ in CASES}), help="this one alone")
    arguments = parser.parse_args()
    repeats, name = arguments.repeats, "eval_pass"
    cases = [case for case in CASES if arguments.batch in (None, case[0])]
    if arguments.batch:
        name += f"_{arguments.batch}"
    keep_freed_memory()
    top, rows, cores = header(" ".join(["python benchmarks/eval_pass.py", *sys.argv[1:]])), [], torch.get_num_threads()
    for batch, threads in cases:
        torch.set_num_threads(threads or cores)
        rows += [measure(model, batch, repeats) for model in MODELS]
    save(name, {"header": top, "T": step.T, "size": step.SIZE, "rows": rows})


if __name__ == "__main__":
    main()
