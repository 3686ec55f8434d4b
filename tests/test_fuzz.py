"""Every reader on some hundred damaged files; ``make fuzz`` takes thousands."""

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz_subjects import SUBJECTS

CASES = 40
FUZZ = Path(__file__).with_name("fuzz.py")


@pytest.fixture(scope="module")
def outcomes() -> str:
    """In a process of its own, which a reader may end or fill the memory of."""
    command = [sys.executable, str(FUZZ), "--cases", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), f"ended by {done.returncode} in case: {done.stderr.splitlines()[-1]}"
    return done.stdout


def test_a_damaged_file_is_read_or_refused_in_a_sentence(outcomes):
    assert "FAULT" not in outcomes, outcomes
    for name in SUBJECTS:
        assert f"{name}: " in outcomes


def test_the_damage_is_such_that_most_readers_refuse_it(outcomes):
    """Damage that nobody noticed would try nothing; a report shows what it can, so it refuses little."""
    for line in outcomes.splitlines():
        name, _, counts = line.partition(": ")
        assert name == "run folder" or "'refused'" in counts
