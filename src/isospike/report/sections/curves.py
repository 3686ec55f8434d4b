"""What training recorded, over its steps and epochs."""

import math

from isospike.report.charts import line_chart
from isospike.report.sections.base import Chart, Section, series
from isospike.run_folder import RunFolder, read_records


def curves(run: RunFolder) -> Section | None:
    """Loss, accuracy and what else was recorded over the steps."""
    records = read_records(run.metrics)[0]
    steps = [r for r in records if r["kind"] == "step"]
    epochs = [r for r in records if r["kind"] == "epoch"]
    if not steps:
        return None
    tests = [r for r in epochs if r["split"] == "test"]
    loss = series(steps, "loss", "training") + series(tests, "loss", "test")
    charts = [Chart(line_chart(loss, x="optimiser step", y="loss", title="Loss"), "Loss.")]
    if epochs:
        accuracy = [
            point
            for split in ("train", "test")
            for point in series([r for r in epochs if r["split"] == split], "accuracy", split, x="epoch")
        ]
        chart = line_chart(accuracy, x="epoch", y="accuracy", title="Accuracy", percent=True)
        charts.append(Chart(chart, "Accuracy, of training as the epoch went along."))
    for key, title, log in (
        ("lr", "Learning rate", False),
        ("grad_norm", "Gradient norm", True),
        ("images_per_s", "Images per second", False),
    ):
        points = [p for p in series(steps, key, title) if math.isfinite(p["value"]) and (not log or p["value"] > 0)]
        if points:
            chart = line_chart(points, x="optimiser step", y=title.lower(), title=title, log=log)
            charts.append(Chart(chart, f"{title}."))
    hint = (
        "<p class='hint'>Click a name in a legend to pick a line, hold shift and turn the wheel to zoom. By keyboard, "
        "in a chart: a digit picks a line, + and - zoom, arrows move, Escape goes back.</p>"
    )
    return Section("Curves", hint, tuple(charts))
