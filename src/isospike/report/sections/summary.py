"""The figures that one looks for first, and what this run does not have yet."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from isospike.config import RunConfig
from isospike.errors import ConfigError
from isospike.neurons import NEURONS
from isospike.own_rows import import_options
from isospike.report.sections.base import Section
from isospike.run_folder import RunFolder, read_records
from isospike.text import duration

# What a result in analysis/ is called, and which command makes it.
RESULTS = {
    "test": ("the test", "eval"),
    "isometry": ("isometry", "analyze"),
    "flow": ("firing", "energy"),
    "energy": ("energy", "energy"),
}


def summary(run: RunFolder) -> Section | None:
    """Show accuracy, time, and in a sentence what is missing."""
    config = run.read_config()
    data = run.read_analysis("data") or {}
    figures = figures_of(run) or {"steps so far": "none"}
    cards = "".join(
        f'<div class="figure"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in figures.items()
    )
    what = f"{config.model.name} on {data.get('name', config.data.kind)}, seed {config.seed}."
    missing = "".join(f"<p class='hint'>{escape(sentence)}</p>" for sentence in what_is_missing(run, config))
    return Section("Summary", f'<p>{escape(what)}</p><div class="figures">{cards}</div>{missing}')


def figures_of(run: RunFolder) -> dict[str, str]:
    """Return the accuracies, and what the training took."""
    records = read_records(run.metrics)[0]
    data = run.read_analysis("data") or {}
    tests = [r for r in records if r["kind"] == "epoch" and r["split"] == "test"]
    steps = [r for r in records if r["kind"] == "step"]
    note = f" ({data['note']})" if data.get("note") else ""
    figures = _accuracies(tests, note)
    if not tests and (tested := _readable(run, "test")):
        figures[f"test accuracy, {tested['checkpoint']} checkpoint{note}"] = f"{tested['accuracy']:.2%}"
    if steps:
        rates = sorted(r["images_per_s"] for r in steps)
        figures["training loss, last"] = f"{steps[-1]['loss']:.4f}"
        figures["optimiser steps"] = f"{steps[-1]['step']:,}"
        if left_out := sum(r.get("left_out", 0) for r in steps):
            figures["steps left out, fp16 gradient not finite"] = f"{left_out:,}"
        figures["training time"] = duration(steps[-1]["seconds"])
        figures["images/s, median"] = f"{rates[len(rates) // 2]:,.0f}"
        figures["peak memory"] = f"{max(r['peak_memory_mb'] for r in steps):,.0f} MB"
    return figures


def _readable(run: RunFolder, name: str) -> dict[str, Any] | None:
    """Read a result, or None; what is wrong with a damaged one is said where it would be shown."""
    try:
        return run.read_analysis(name)
    except ConfigError:
        return None


def _accuracies(tests: list[dict[str, Any]], note: str) -> dict[str, str]:
    if not tests:
        return {}
    best: Mapping[str, Any] = max(tests, key=lambda r: r["accuracy"])
    return {
        f"test accuracy, last epoch{note}": f"{tests[-1]['accuracy']:.2%}",
        f"best epoch, chosen on the test images{note}": f"{best['accuracy']:.2%} (epoch {best['epoch']})",
    }


def _meaningless(run: RunFolder, config: RunConfig) -> tuple[str, ...]:
    """List results that such a network does not have: an ANN fires nothing, and a converted one has no units."""
    if config.network is not None:
        return ("isometry",)
    kind = str(((_readable(run, "model") or {}).get("neuron") or {}).get("kind"))
    return ("flow", "energy") if kind in NEURONS and getattr(NEURONS[kind], "levels", 1) is None else ()


def what_is_missing(run: RunFolder, config: RunConfig) -> Iterator[str]:
    """Yield a sentence each for damaged records, for training that has not ended and for what was not measured."""
    epochs, subject = config.train.epochs, f"{run.path}{import_options(config.imports)}"
    converted = config.network is not None and not run.metrics.is_file()
    records, _ = read_records(run.metrics)
    for path in (run.metrics, run.flow):
        if damaged := read_records(path)[1]:
            yield f"{damaged}; it is left out."
    done = max((r["epoch"] for r in records if r["kind"] == "epoch"), default=0)
    if converted:
        yield f"Converted, and not trained on. For fewer steps: isospike train --from {subject} --set model.T=4"
    elif done < epochs:
        yield f"Training is not over: {done} of {epochs} epochs are done. Go on: isospike train --resume {subject}"
    absent: dict[str, list[str]] = {}
    for name, (words, command) in RESULTS.items():
        if not run.analysis(name).is_file() and name not in _meaningless(run, config):
            absent.setdefault(command, []).append(words)
    if absent:
        ways = "; ".join(f"{' and '.join(words)}: isospike {command} {subject}" for command, words in absent.items())
        yield f"Not measured yet: {ways}"
