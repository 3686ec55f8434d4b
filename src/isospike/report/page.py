"""The page itself: sections put into one HTML file, with the plotting library inside."""

import json
from functools import cache
from html import escape
from importlib import resources

from isospike.optional import import_optional
from isospike.report.sections import SECTIONS, Chart, Section
from isospike.run_folder import RunFolder, write_text


def write_report(run: RunFolder) -> None:
    """Write ``report.html`` into a run folder.

    Raises:
        ConfigError: the folder holds no run, or a file in it is damaged.
        MissingExtra: the plotting library is not installed.
    """
    sections = [section for make in SECTIONS if (section := make(run)) is not None]
    write_text(run.report, render(run.path.name, sections))


def render(title: str, sections: list[Section]) -> str:
    """The page as text."""
    links = "".join(f'<a href="#s{n}">{escape(section.title)}</a>' for n, section in enumerate(sections))
    body = "".join(_section(n, section) for n, section in enumerate(sections))
    return _asset("page.html").format(
        title=escape(title),
        style=_asset("page.css"),
        links=links,
        body=body,
        library=_library(),
        script=_asset("page.js"),
    )


def _section(number: int, section: Section) -> str:
    charts = "".join(_chart(chart) for chart in section.charts)
    return (
        f'<section id="s{number}"><h2>{escape(section.title)}</h2>{section.html}'
        f'<div class="charts">{charts}</div></section>'
    )


def _chart(chart: Chart) -> str:
    """The specification travels as data, so nothing in it can end the script it stands in."""
    data = json.dumps(chart.spec).replace("<", "\\u003c")
    return (
        f'<figure><div class="chart" tabindex="0"></div><script type="application/json">{data}</script>'
        f"<figcaption>{chart.caption}</figcaption></figure>"
    )


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    vl_convert = import_optional("vl_convert", extra="report", purpose="the report")
    return str(vl_convert.javascript_bundle()).replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return resources.files("isospike.report").joinpath("assets", name).read_text(encoding="utf-8")
