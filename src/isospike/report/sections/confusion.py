"""Which classes are taken for which, and the images that the network is most sure about and wrong."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from isospike.report.charts import Point, heat_map, line_chart
from isospike.report.sections.base import Chart, Section, table
from isospike.run_folder import RunFolder

LARGEST_HEAT_MAP = 100  # classes


def confusion(run: RunFolder) -> Section | None:
    """Show the confusion matrix, its largest cells, and images."""
    tested = run.read_analysis("test")
    if tested is None:
        return None
    classes, matrix = tested["classes"], tested["confusion"]
    pairs = sorted(
        (
            (count, classes[true], classes[guess], count / max(1, sum(counts)))
            for true, counts in enumerate(matrix)
            for guess, count in enumerate(counts)
            if true != guess and count
        ),
        reverse=True,
    )
    rows = [(true, guess, f"{count:,}", f"{share:.1%}") for count, true, guess, share in pairs[:10]]
    most = table(("true class", "taken for", "images", "share of the class"), rows)
    size = f" at {tested['size']} pixels" if "size" in tested else ""
    text = f"<p>{tested['images']:,} test images{size}, {escape(tested['checkpoint'])} checkpoint.</p>"
    html = f"{text}<h3>Most often confused</h3>{most if rows else '<p>No image was put into a wrong class.</p>'}"
    html += _images(run.read_analysis("confused"))
    if len(classes) > LARGEST_HEAT_MAP:
        return Section("Confusion", html)
    chart = heat_map(matrix, classes, title="Confusion matrix")
    return Section("Confusion", html, (Chart(chart, "Confusion matrix: the share of each true class."),))


def _images(confused: Mapping[str, Any] | None) -> str:
    """Show thumbnails as data; a base64 alphabet holds nothing to escape, but the file may hold anything."""
    if not confused or not confused["images"]:
        return ""
    figures = []
    for image in confused["images"]:
        words = escape(f"{image['true']}, taken for {image['guess']} ({image['probability']:.1%})")
        source = escape(f"data:image/png;base64,{image['png']}")
        number = escape(f"test image {image['index']}")
        figures.append(
            f'<figure><img src="{source}" alt="{number}" title="{number}"><figcaption>{words}</figcaption></figure>'
        )
    head = "<h3>Wrong with the highest probability</h3>"
    return f'{head}<div class="images">{"".join(figures)}</div>'


def accuracy_over_time(run: RunFolder) -> Section | None:
    """Show what the network says after each of its steps."""
    tested = run.read_analysis("test")
    if tested is None or len(tested.get("accuracy_after", [])) < 2:
        return None
    after = tested["accuracy_after"]
    text = (
        f"<p>Accuracy on {tested['images']:,} test images of the mean logits after each step, "
        f"{escape(tested['checkpoint'])} checkpoint: what the network would reach with so many steps and no more.</p>"
    )
    points = [{"x": t, "value": value, "series": "accuracy"} for t, value in enumerate(after, start=1)]
    rows = [[str(t) for t in range(1, len(after) + 1)], [f"{value:.2%}" for value in after]]
    steps = table(["T", *rows[0]], [["accuracy", *rows[1]]]) if len(after) <= 16 else ""
    return Section("Accuracy against T", text + steps, (steps_chart(points),))


def steps_chart(points: Sequence[Point]) -> Chart:
    """Draw accuracy against T; not from 0, for the steps differ by little."""
    title = "Accuracy against T"
    spec = line_chart(points, x="time steps T", y="accuracy", title=title, percent=True, from_zero=False)
    return Chart(spec, "Accuracy of the mean logits after each time step.")
