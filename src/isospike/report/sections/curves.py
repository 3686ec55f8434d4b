"""What training recorded, over its steps and epochs."""

import math

from isospike.report.charts import line_chart
from isospike.report.sections.base import Chart, Section, series
from isospike.run_folder import RunFolder, read_records


def curves(run: RunFolder) -> Section | None:
    """Show loss, accuracy and what else was recorded over the steps."""
    records = read_records(run.metrics)[0]
    steps = [r for r in records if r["kind"] == "step"]
    epochs = [r for r in records if r["kind"] == "epoch"]
    if not steps:
        return None
    tests = [r for r in epochs if r["split"] == "test"]
    loss = series(steps, "loss", "training") + series(tests, "loss", "test")
    about = "Loss of every training batch" + (", and the mean over the test images after each epoch" if tests else "")
    charts = [Chart(line_chart(loss, x="optimiser step", y="loss", title="Loss"), f"{about}.")]
    if epochs:
        accuracy = [
            point
            for split in ("train", "test")
            for point in series([r for r in epochs if r["split"] == split], "accuracy", split, x="epoch")
        ]
        chart = line_chart(accuracy, x="epoch", y="accuracy", title="Accuracy", percent=True)
        about = "Accuracy in each epoch: of training over its batches as they came, of the test after the last of them."
        charts.append(Chart(chart, about))
    for key, title, log, about in (
        ("lr", "Learning rate", False, "Learning rate of every optimiser step."),
        ("grad_norm", "Gradient norm", True, "Length of the gradient over all weights, before it is clipped."),
        ("images_per_s", "Images per second", False, "Training images per second, waiting for data included."),
    ):
        points = [p for p in series(steps, key, title) if math.isfinite(p["value"]) and (not log or p["value"] > 0)]
        if points:
            chart = line_chart(points, x="optimiser step", y=title.lower(), title=title, log=log)
            charts.append(Chart(chart, about))
    hint = (
        "<p class='hint'>Click a name in a legend to pick a line, hold shift and turn the wheel to zoom. By keyboard, "
        "in a chart: a digit picks a line, + and - zoom, arrows move, Escape goes back.</p>"
    )
    return Section("Curves", hint, tuple(charts))
