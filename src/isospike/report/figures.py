"""Every chart and picture of a page as a file of its own, for papers."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from isospike.errors import ConfigError
from isospike.optional import import_optional
from isospike.report.charts import Spec, still
from isospike.report.sections import Section
from isospike.report.theme import vega_config
from isospike.run_folder import write_text

WIDTH = 480  # pixels, where a chart on the page is as wide as there is room
SCALE = 3  # of PNG


def write_figures(sections: Iterable[Section], folder: Path) -> list[Path]:
    """Write SVG and PNG of everything drawn, in the light colours.

    Args:
        sections: Of a report or a comparison.
        folder: Made if need be; files of the same names are written over.

    Returns:
        The SVG files; each has a PNG beside it.

    Raises:
        ConfigError: the folder cannot be written.
        MissingExtra: the plotting library is not installed.
    """
    vl_convert = import_optional("vl_convert", extra="report", purpose="the figures")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, drawn in _drawn(sections):
            path = folder / f"{len(written) + 1:02}-{name}.svg"
            svg = drawn if isinstance(drawn, str) else vl_convert.vegalite_to_svg(drawn, config=_config())
            write_text(path, svg)
            path.with_suffix(".png").write_bytes(vl_convert.svg_to_png(svg, scale=SCALE))
            written.append(path)
    except OSError as error:
        raise ConfigError(f"cannot write figures to {folder}: {error.strerror}") from error
    return written


def _drawn(sections: Iterable[Section]) -> Iterator[tuple[str, str | Spec]]:
    """Yield names for files, and SVG or specifications."""
    for section in sections:
        for name, picture in section.pictures.items():
            yield _slug(f"{section.title} {name}"), picture
        for chart in section.charts:
            width = chart.spec["width"] if isinstance(chart.spec["width"], int) else WIDTH
            yield _slug(f"{section.title} {chart.spec['description']}"), still({**chart.spec, "width": width})


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def _config() -> dict[str, object]:
    return {**vega_config(), "background": "white", "font": "Helvetica, Arial, sans-serif"}
