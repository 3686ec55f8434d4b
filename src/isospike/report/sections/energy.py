"""What the operations cost."""

from collections.abc import Mapping
from html import escape
from typing import Any

from isospike.report.sections.base import Section, depth_chart, table
from isospike.run_folder import RunFolder
from isospike.text import energy_unit


def energy(run: RunFolder) -> Section | None:
    """Show what the operations cost, beside the ANN of the same layers."""
    found = run.read_analysis("energy")
    if found is None:
        return None
    table, note = found["table"], f" ({found['note']})" if found["note"] else ""
    unit, per_mj = energy_unit(found["mj"].values())
    html = (
        f"<p>Per image of {found['samples']:,} test images of {escape(found['data'] + note)}, "
        f"{escape(found['checkpoint'])} checkpoint; {found['spikes_per_neuron']:.3f} spikes per neuron. "
        f"{escape(table['name'])}: {table['mac_pj']:g} pJ per MAC, {table['ac_pj']:g} pJ per AC "
        f"({escape(table['source'])}).</p>{_ways(found, unit, per_mj)}"
        f"<h3>By part</h3>{_parts(found['groups'], unit, per_mj)}"
        f"<h3>Estimates, in no total above</h3>{_estimates(found, unit, per_mj)}"
    )
    layers = [{**layer, "name": f"{layer['layer']}, reads {layer['reads']}"} for layer in found["layers"]]
    series = {"this network": [per_mj * layer["mj"] for layer in layers]}
    series["ANN of the same layers"] = [per_mj * layer["ann_mj"] for layer in layers]
    chart = depth_chart(
        layers,
        series,
        "layer, in the order of the network",
        unit,
        "Energy of every layer",
        caption="What every convolution and linear layer takes per image, all time steps together.",
    )
    return Section("Energy", html, (chart,))


def _ways(found: Mapping[str, Any], unit: str, per_mj: float) -> str:
    mj = found["mj"]
    rows = [("ANN of the same layers, dense", f"{per_mj * mj['ann']:,.4g}", "1")]
    rows += [(words, f"{per_mj * mj[way]:,.4g}", f"{mj['ann'] / mj[way]:.2f}") for way, words in found["ways"].items()]
    return table(("way of counting", f"energy, {unit}", "ANN / this"), rows)


def _parts(groups: Mapping[str, Mapping[str, float]], unit: str, per_mj: float) -> str:
    counts = ("dense", "macs", "acs", "graded_acs")
    rows = [
        (name, *(f"{row[c] / 1e6:,.3f}" for c in counts), *(f"{per_mj * row[e]:,.3f}" for e in ("mj", "ann_mj")))
        for name, row in groups.items()
    ]
    head = ("part", "dense MACs, M", "MACs, M", "ACs, M", "graded ACs, M", f"energy, {unit}", f"ANN, {unit}")
    return table(head, rows)


def _estimates(found: Mapping[str, Any], unit: str, per_mj: float) -> str:
    memory = found["estimates"]["memory"]
    values = {
        "ANN without the zeros of the padding": found["ann_inside_mj"],
        "potentials updated": found["estimates"]["membrane"],
        "memory, each number moved as seldom as can be": sum(memory.values()) - memory["ann"],
        "the same of the ANN": memory["ann"],
    }
    return table(("estimate", f"energy, {unit}"), [(name, f"{per_mj * mj:,.4g}") for name, mj in values.items()])
