"""What the documents say must run."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import isospike
from isospike.recipes import list_recipes
from isospike.residual import TOPOLOGIES
from test_cli import call

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


GUIDE = (ROOT / "docs" / "guide.md").read_text()


def blocks(language, text):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(
    ("page", "count"),
    {"README": 1, "docs/guide": 2, "docs/events": 2, "docs/conversion": 1, "docs/export": 1}.items(),
)
def test_the_python_of_a_page_runs(page, count):
    codes = blocks("python", (ROOT / f"{page}.md").read_text())
    assert len(codes) == count
    for code in codes:
        exec(code, {})


def test_the_python_of_the_tutorial_and_of_every_how_to_page_runs():
    """In one process of its own, as some of them register rows; a page after another, each from nothing."""
    pages = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
    codes = {str(page): "\n".join(blocks("python", page.read_text())) for page in pages}
    assert len(codes) > 5
    assert all(codes.values())
    run = f"for page, code in {codes!r}.items(): exec(compile(code, page, 'exec'), {{}})"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_of_the_api_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    listed = re.findall(r"^::: isospike\.(\w+)$", page, re.MULTILINE)
    named = re.findall(r"`iso\.(\w+)`", page)
    assert {*listed, *named} >= {*isospike.__all__} - {"events"}
    assert len(listed) == len({*listed})


def test_every_page_of_the_site_is_in_its_menu():
    menu = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert menu == pages


def test_the_training_loops_run():
    """Those that need nothing but PyTorch."""
    codes = blocks("python", (ROOT / "docs" / "training_loops.md").read_text())
    assert len(codes) == 2
    for code in codes:
        exec(code, {})


def commands(text):
    for block in blocks("bash", text):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["isospike"]:
                yield words[1:]


@pytest.mark.parametrize(
    ("text", "named"),
    [(README, "predict train"), (GUIDE, "models recipes train eval energy predict export analyze report sweep")],
    ids=["README", "guide"],
)
def test_the_commands_of_a_page_run_in_their_order(text, named, tmp_path, monkeypatch):
    """As they stand, but for a smaller network and one epoch; folders of images are played by synthetic ones."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("digit.png")
    seen = []
    for words in commands(text):
        if "--data-dir" in words:
            folder = words.index("--data-dir")
            del words[folder : folder + 2]
            words += ["--set", "data={kind: synthetic, train: 200, test: 10}", "--max-steps", "1"]
        if "--recipe" in words:
            words += ["--set", "model.name=ms_resnet8", "--set", "model.T=2", "--set", "train.epochs=3"]
        if words[0] == "sweep":
            words += ["--depths", "8,14", "--seeds", "0", "--set", "train.epochs=1", "--set", "model.T=2"]
        call(*words)
        seen.append(words[0])
    assert set(seen) == set(named.split())
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


def test_papers_and_addresses_that_are_named_were_looked_up():
    """In pages, docstrings and recipes; an address of arXiv is that of its number."""
    known = yaml.safe_load((ROOT / "tests" / "sources.yaml").read_text())
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("src/**/*.yaml"), *ROOT.glob("docs/**/*.yaml"), *DOCUMENTS]
    text = "\n".join(source.read_text() for source in sources)
    numbers = set(re.findall(r"arXiv:(\d{4}\.\d{5})", text)) | set(re.findall(r"arxiv\.org/abs/([\w.]+)", text))
    assert numbers | set(re.findall(r"doi:(10\.\d{4,}/[\w./-]*\w)", text)) == {*known["papers"]}
    assert set(re.findall(r"(?<!xmlns=\")https://(?!arxiv\.org|vega\.)[\w/.-]+\w", text)) == {*known["addresses"]}
    for label, address in re.findall(r"\[arXiv:([\d.]+)\]\((.+?)\)", text):
        assert address == f"https://arxiv.org/abs/{label}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_blocks_of_code_name_a_language_that_the_site_knows(document):
    """One word: python is run by the tests, py are pieces that need more; any other opening is shown as text."""
    openings = re.findall(r"^ *```(.*)$", document.read_text(), re.MULTILINE)[::2]
    assert {*openings} <= {"python", "py", "bash", "text", "toml", "yaml", "json"}, openings


def test_the_citation_names_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == isospike.__version__


def test_set_up_is_by_make():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`?make ([\w-]+)`?", README))
    assert targets == {"demo", "demo-events", "docs", "test"}
    assert all(re.search(rf"^{target}[: ]", makefile, re.MULTILINE) for target in targets)


def test_the_demo_installs_what_it_uses_and_the_tests_add_theirs(tmp_path):
    """By what make would do in a place where nothing is yet."""

    def lines(target):
        # Under `make test` this make is a sub-make, which names its directory before and after.
        command = ["make", "--no-print-directory", "--dry-run", target, f"VENV={tmp_path}", f"PYTHON={sys.executable}"]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()

    def extras(target):
        return [names.split(",") for line in lines(target) for names in re.findall(r"-e '\.\[([\w,]+)\]'", line)]

    assert extras("demo") == [["digits", "train", "report"]]
    assert extras("test") == [["digits", "train", "report"], ["all", "dev"]]
    for target in ("demo", "test"):
        said = [before for before, line in pairwise(lines(target)) if "pip install" in line]
        assert all(line.startswith('echo "Installing ') for line in said)
        assert len(said) == (2 if target == "demo" else 3)
    for target, recipe in {"demo": "digits_ms_resnet20", "demo-events": "camera_digits_ms_resnet8"}.items():
        *_, train, rest, _ = lines(target)
        assert train == f"{tmp_path}/bin/isospike train --recipe {recipe}"
        assert rest.startswith(f"run=$(ls -td runs/{recipe}*")
        assert rest.endswith("for command in analyze energy report; do \\")


def test_the_table_of_topologies_is_whole():
    first_cells = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == {*TOPOLOGIES, "srm"}
    assert all(re.search(r"arXiv:[\d.]+", TOPOLOGIES[name].source)[0] in README for name in TOPOLOGIES)


def test_contributing_shows_a_real_file():
    code, *_ = blocks("python", (ROOT / "CONTRIBUTING.md").read_text())
    source = (ROOT / "src/isospike/residual/sew.py").read_text()
    assert source.endswith(code)
    assert len(code.splitlines()) <= 25


def anchors(document):
    """Of its headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_and_files_exist(document):
    text = document.read_text()
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", text):
        target = document.parent / link if link else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"
    for path in re.findall(r"`((?:src|docs|tests|benchmarks)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for recipe in re.findall(r"--recipe (\w+)", text):
        assert recipe in list_recipes()
