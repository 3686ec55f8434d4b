"""What the operations cost."""

from collections.abc import Mapping
from html import escape
from typing import Any

from isospike.report.sections.base import Section, depth_chart, table
from isospike.run_folder import RunFolder


def energy(run: RunFolder) -> Section | None:
    """What the operations cost, beside the ANN of the same layers."""
    found = run.read_analysis("energy")
    if found is None:
        return None
    table, note = found["table"], f" ({found['note']})" if found["note"] else ""
    html = (
        f"<p>Per image of {found['samples']:,} test images of {escape(found['data'] + note)}, "
        f"{escape(found['checkpoint'])} checkpoint; {found['spikes_per_neuron']:.3f} spikes per neuron. "
        f"{escape(table['name'])}: {table['mac_pj']:g} pJ per MAC, {table['ac_pj']:g} pJ per AC "
        f"({escape(table['source'])}).</p>{_ways(found)}<h3>By part</h3>{_parts(found['groups'])}"
        f"<h3>Estimates, in no total above</h3>{_estimates(found)}"
    )
    layers = [{**layer, "name": f"{layer['layer']}, reads {layer['reads']}"} for layer in found["layers"]]
    series = {"this network": [1e3 * layer["mj"] for layer in layers]}
    series["ANN of the same layers"] = [1e3 * layer["ann_mj"] for layer in layers]
    chart = depth_chart(layers, series, "layer, in the order of the network", "uJ", "Energy of every layer")
    return Section("Energy", html, (chart,))


def _ways(found: Mapping[str, Any]) -> str:
    mj = found["mj"]
    rows = [("ANN of the same layers, dense", f"{mj['ann']:.4g} mJ", "1")]
    rows += [(words, f"{mj[way]:.4g} mJ", f"{mj['ann'] / mj[way]:.2f}") for way, words in found["ways"].items()]
    return table(("way of counting", "energy", "ANN / this"), rows)


def _parts(groups: Mapping[str, Mapping[str, float]]) -> str:
    counts = ("dense", "macs", "acs", "graded_acs")
    rows = [
        (name, *(f"{row[c] / 1e6:,.3f}" for c in counts), f"{row['mj'] * 1e3:,.3f}", f"{row['ann_mj'] * 1e3:,.3f}")
        for name, row in groups.items()
    ]
    return table(("part", "dense MACs, M", "MACs, M", "ACs, M", "graded ACs, M", "uJ", "ANN uJ"), rows)


def _estimates(found: Mapping[str, Any]) -> str:
    memory = found["estimates"]["memory"]
    values = {
        "ANN without the zeros of the padding": found["ann_inside_mj"],
        "potentials updated": found["estimates"]["membrane"],
        "memory, each number moved as seldom as can be": sum(memory.values()) - memory["ann"],
        "the same of the ANN": memory["ann"],
    }
    return table(("", ""), [(name, f"{value:.4g} mJ") for name, value in values.items()])
