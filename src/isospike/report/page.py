"""The page itself: sections put into one HTML file, with the plotting library inside."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from html import escape
from importlib import resources
from pathlib import Path

from isospike.errors import ConfigError, IsospikeError, RunFailed
from isospike.events import Events
from isospike.optional import import_optional
from isospike.report.recording import recording_sections
from isospike.report.sections import SECTIONS, Chart, Section
from isospike.report.theme import vega_config
from isospike.run_folder import MISREAD, RunFolder, misread, noting_files, read_records, write_text


def write_report(run: RunFolder, path: Path | None = None) -> list[str]:
    """Write the report of a run.

    Args:
        run: Its folder.
        path: Where to; None: ``report.html`` in it.

    Returns:
        A sentence for every section that could not be shown.

    Raises:
        ConfigError: the folder holds no run, or the page cannot be written.
        MissingExtra: the plotting library is not installed.
    """
    sections, problems = run_sections(run)
    write_page(path or run.report, render(run.path.resolve().name, sections))
    return problems


def write_recording(events: Events, name: str, path: Path) -> None:
    """Write the page of a recording.

    Args:
        events: The recording.
        name: Its title.
        path: Where to.

    Raises:
        ConfigError: the page cannot be written.
        DataError: there are no events.
        MissingExtra: the plotting library is not installed.
    """
    write_page(path, render(name, recording_sections(events)))


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        write_text(path, text)
    except RunFailed as error:
        raise ConfigError(str(error)) from error


def run_sections(run: RunFolder) -> tuple[list[Section], list[str]]:
    """Make all that can be said of a run, and a sentence for each section that a damaged file forbids."""
    run.read_config()
    sections, problems = make_all({make.__name__: partial(make, run) for make in SECTIONS})
    damaged = [sentence for path in (run.metrics, run.flow) if (sentence := read_records(path)[1])]
    return sections, [*damaged, *problems]


def make_all(makers: Mapping[str, Callable[[], Section | None]]) -> tuple[list[Section], list[str]]:
    """Make the sections; one that cannot read its file becomes a sentence, and the others are shown."""
    sections, problems = [], []
    for name, make in makers.items():
        title = name.replace("_", " ").capitalize()
        with noting_files() as files:
            try:
                section = make()
            except IsospikeError as error:
                problem = str(error)
            except MISREAD as error:
                problem = misread(files, error)
            else:
                sections += [section] if section is not None else []
                continue
        problems.append(f"{title}: {problem}")
        sections.append(Section(title, f"<p class='problem'>This cannot be shown: {escape(problem)}.</p>"))
    return sections, problems


def render(title: str, sections: Sequence[Section]) -> str:
    """Render the page as text."""
    links = "".join(f'<a href="#s{n}">{escape(section.title)}</a>' for n, section in enumerate(sections))
    body = "".join(_section(n, section) for n, section in enumerate(sections))
    themes = json.dumps({"light": vega_config(), "dark": vega_config(dark=True)})
    return _asset("page.html").format(
        title=escape(title),
        style=_asset("page.css"),
        links=links,
        body=body,
        library=_library(),
        script=f"const themes = {themes};\n{_asset('page.js')}\n{_asset('save.js')}",
    )


def _section(number: int, section: Section) -> str:
    pictures = "".join(f'<div class="wide" tabindex="0">{picture}</div>' for picture in section.pictures.values())
    charts = "".join(_chart(chart) for chart in section.charts)
    return (
        f'<section id="s{number}"><h2>{escape(section.title)}</h2>{section.html}{pictures}'
        f'<div class="charts">{charts}</div></section>'
    )


def _chart(chart: Chart) -> str:
    """Write the specification as data, so that nothing in it can end the script it stands in."""
    data = json.dumps(chart.spec, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<figure><div class="chart" tabindex="0"></div><script type="application/json">{data}</script>'
        f'<figcaption>{chart.caption}</figcaption><div class="save"></div>'
        f'<details class="data"><summary>Numbers</summary></details></figure>'
    )


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    vl_convert = import_optional("vl_convert", extra="report", purpose="the report")
    return str(vl_convert.javascript_bundle()).replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return resources.files("isospike.report").joinpath("assets", name).read_text(encoding="utf-8")
