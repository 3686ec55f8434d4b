"""Both pages in a real browser without a window: every chart is drawn and nothing is said on the console."""

import json
import re
import subprocess
from html import unescape

import pytest

from conftest import BROWSER
from isospike.report import write_comparison, write_report
from report_runs import HOSTILE, make_run, measure


def render(path, *options):
    """The page after its scripts have run, and what they said on the console."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    options = [*options, "--virtual-time-budget=20000", f"--user-data-dir={path.parent / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, *options, path.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_chart_is_drawn_and_the_console_is_silent(tmp_path, mode):
    first = make_run(tmp_path / HOSTILE.replace("/", ""), analyzed=True)
    measure(first, "ds_resnet8")
    path = first.report
    if mode == "light":
        write_report(first)
    else:
        second = make_run(tmp_path / "second")
        path = tmp_path / "page.html"
        write_comparison([first, second], path)
    dom, console = render(path, *([] if mode == "light" else ["--blink-settings=preferredColorScheme=0"]))
    assert console == []
    assert "could not be drawn" not in dom.split("<footer>")[0]
    body = dom[dom.index("<main>") : dom.index("</main>")]
    charts = len(re.findall('<div class="chart[ "]', body))
    assert charts > 7
    assert len(re.findall(r'<(?:svg|canvas)[^>]*class="marks"', body)) == charts
    series = "#0072B2" if mode == "light" else "#56B4E9"
    assert f'stroke="{series}"' in body
    assert "alert(1)" in body
    assert "<script>alert(1)" not in body


@pytest.mark.browser
def test_charts_and_tables_are_saved_as_svg_csv_and_latex(tmp_path):
    """The page's own functions are called in the page, and what they make is written into its body."""
    run = make_run(tmp_path / "run")
    write_report(run)
    calls = """<script>
      addEventListener("load", async () => {
        const rows = [["a, b", 'said "x"'], ["50 %", "n_1"], [null, "\\\\"]];
        const figure = document.querySelector("figure");
        const made = [csv_of(rows), latex_of(rows), csv_of(numbers_of(spec_of(figure))), await svg_of(figure)];
        made.push([...document.querySelectorAll("section .save")].map((bar) => bar.textContent).join(" "));
        const place = Object.assign(document.createElement("pre"), { id: "made", textContent: JSON.stringify(made) });
        document.body.append(place);
      });
    </script></body>"""
    page, _, end = run.report.read_text().rpartition("</body>")  # the library holds others
    run.report.write_text(page + calls + end)
    dom, console = render(run.report)
    assert console == []
    csv, latex, numbers, svg, buttons = json.loads(unescape(re.search('<pre id="made">(.*?)</pre>', dom, re.DOTALL)[1]))
    assert csv == '"a, b","said ""x"""\r\n50 %,n_1\r\n,\\\r\n'
    assert latex.splitlines() == [
        r"\begin{tabular}{lr}", r"  \toprule", r"  a, b & said "'"x"'r" \\", r"  \midrule", r"  50 \% & n\_1 \\",
        r"   & \textbackslash{} \\", r"  \bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert numbers.splitlines()[0] == "x,value,series"
    assert len(numbers.splitlines()) == 1 + 40 + 1  # steps and one test
    assert svg.startswith("<svg")
    assert "white" in svg
    assert buttons.count("SVG") == len(re.findall('<div class="chart[ "]', dom)) + 1  # the unit
    assert buttons.count("LaTeX") == len(re.findall('<div class="wide"[^>]*><table', dom))
