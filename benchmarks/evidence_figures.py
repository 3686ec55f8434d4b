"""Tables and figures of docs/evidence/isometry.json."""

import json
import math
from statistics import median

import vl_convert

from isospike.report.sweep_charts import STATIC

MOMENTS = {"start": "at initialisation", "trained": "after training"}


def label(cell):
    return cell["topology"] if cell["tail_init"] is None else f"{cell['topology']} {cell['tail_init']:g}"


def table(result):
    """Markdown: a table for each moment."""
    training = result["training"]
    part = training["steps"] // 6
    lines = [
        "# Isometry on CIFAR-10, all numbers",
        "",
        f"Made by `{result['header']['command']}`; the raw numbers are in `isometry.json`. {result['data']} "
        f"({result['note']}), {result['images']} test images, T={result['T']}, {result['probes']} probes per unit, "
        f"seed {result['seed']}; trained means {training['steps']} steps of {training['batch_size']} images at "
        f"learning rate {training['lr']:g}.",
        "",
        "- **product**: log10 of the product of phi over all units, with the 95 % interval of the probes: how much the",
        "  square of a gradient grows on its way from the last unit to the first. **theory**: the same, by the rules.",
        "- **phi**: median over the units that keep the shape, and of the two that project.",
        "- **gradient**: norm of the gradient of the loss before the first unit over that before the last.",
        f"- **loss**: mean training loss of the first and of the last {part} steps.",
        "- The number behind `ms` is the weight at which the last norm of every branch starts.",
    ]
    for key, words in MOMENTS.items():
        loss = key == "trained"
        head = ["network", "depth", "product", "theory", "phi", "phi of projections", "gradient"] + ["loss"] * loss
        lines += ["", f"## {words.capitalize()}", "", row(head), row(["---"] * len(head))]
        for cell in result["cells"]:
            if key in cell:
                losses = [f"{cell['training'][at]['loss']:.2f}" for at in (0, -1)] if loss else []
                lines.append(row([label(cell), cell["depth"], *moment(cell[key]), *([", ".join(losses)] * loss)]))
    return "\n".join(lines) + "\n"


def row(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def moment(found):
    product, error, theory = (found[f"log10_product{which}"] for which in ("", "_error", "_expected"))
    norms, phi = found["gradient"], found["phi"]
    kept = [value for unit, value in enumerate(phi, start=1) if unit not in found["projects"]]
    return [
        "nothing passes" if product is None else f"{product:+.2f} ± {error:.2f}",
        "-" if theory is None else f"{theory:+.2f}",
        f"{median(kept):.3f}",
        ", ".join(f"{phi[unit - 1]:.2g}" for unit in found["projects"]) or "-",
        f"{norms[0] / norms[-1]:.2g}" if norms[-1] else "-",
    ]


def draw(result, folder):
    """Three figures, each as SVG and PNG."""
    for name, spec in {
        "products": products(result),
        "phi": phi_by_unit(result, depth=110),
        "gradients": gradients_by_unit(result, depth=110),
    }.items():
        text = json.dumps({"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "config": STATIC, **spec})
        (folder / f"isometry_{name}.svg").write_text(vl_convert.vegalite_to_svg(text))


def products(result):
    """Measured product of phi against depth beside the theory, at both moments."""
    points = []
    for cell in result["cells"]:
        for key, words in MOMENTS.items():
            found = cell.get(key)
            for source, value in (("measured", "log10_product"), ("theory", "log10_product_expected")):
                if found and found[value] is not None and cell["depth"] <= 110:
                    points.append(
                        {
                            "network": label(cell),
                            "depth": cell["depth"],
                            "value": found[value],
                            "source": source,
                            "moment": words,
                        }
                    )
    return {
        "data": {"values": points},
        "facet": {
            "row": {"field": "moment", "type": "nominal", "title": None, "sort": list(MOMENTS.values())},
            "column": {
                "field": "network",
                "type": "nominal",
                "title": None,
                "sort": list(dict.fromkeys(label(cell) for cell in result["cells"])),
            },
        },
        "spec": {
            "width": 90,
            "height": 150,
            "layer": [
                {"mark": {"type": "line", "point": True}},
                {"mark": {"type": "rule", "strokeDash": [2, 2]}, "encoding": {"y": {"datum": 0}, "x": None}},
            ],
            "encoding": {
                "x": {"field": "depth", "type": "quantitative", "axis": {"values": [20, 56, 110]}},
                "y": {"field": "value", "type": "quantitative", "title": "log10 of the product of phi"},
                "color": {"field": "source", "type": "nominal", "title": None},
                "strokeDash": {"field": "source", "type": "nominal", "title": None},
            },
        },
    }


def phi_by_unit(result, depth):
    """phi of every unit at both moments, with the theory."""
    points = []
    for cell in result["cells"]:
        for key, words in MOMENTS.items():
            if cell["depth"] == depth and key in cell:
                for source, values in (("measured", "phi"), ("theory", "phi_expected")):
                    points += [
                        {
                            "network": label(cell),
                            "unit": unit,
                            "value": value,
                            "series": f"{source}, {words}",
                        }
                        for unit, value in enumerate(cell[key][values], start=1)
                        if value
                    ]
    return small_multiples(
        result, points, "phi", [f"{s}, {m}" for s in ("measured", "theory") for m in MOMENTS.values()]
    )


def gradients_by_unit(result, depth):
    """The gradient of the loss by unit over that before the last unit."""
    points = []
    for cell in result["cells"]:
        for key, words in MOMENTS.items():
            if cell["depth"] == depth and key in cell:
                norms = cell[key]["gradient"]
                points += [
                    {"network": label(cell), "unit": unit, "value": norm / norms[-1], "series": words}
                    for unit, norm in enumerate(norms, start=1)
                    if norm and norms[-1]
                ]
    return small_multiples(result, points, "gradient norm / that of the last unit", list(MOMENTS.values()))


def small_multiples(result, points, title, series):
    """A panel per network, lines over units on a logarithmic axis that all panels share."""
    low = 10 ** math.floor(math.log10(min(point["value"] for point in points)))
    return {
        "data": {"values": points},
        "facet": {
            "field": "network",
            "type": "nominal",
            "title": None,
            "sort": list(dict.fromkeys(label(cell) for cell in result["cells"])),
        },
        "columns": 5,
        "spec": {
            "width": 150,
            "height": 160,
            "mark": {"type": "line", "strokeWidth": 1.5},
            "encoding": {
                "x": {"field": "unit", "type": "quantitative", "title": "unit, from stem to head"},
                "y": {
                    "field": "value",
                    "type": "quantitative",
                    "title": title,
                    "scale": {"type": "log", "domainMin": low},
                    "axis": {"format": ".0e", "tickCount": 5},
                },
                "color": {"field": "series", "type": "nominal", "title": None, "scale": {"domain": series}},
                "strokeDash": {"field": "series", "type": "nominal", "title": None, "scale": {"domain": series}},
            },
        },
    }
