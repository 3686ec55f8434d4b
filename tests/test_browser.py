"""Both pages in a real browser without a window: every chart is drawn and nothing is said on the console."""

import re
import subprocess

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
