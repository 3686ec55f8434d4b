"""Gives every reader damaged files: ``python tests/fuzz.py --cases 2000 [READER ...]``.

A reader gives a value or one sentence that names the file, within seconds and without gigabytes. Whatever else happens
is printed with its reader and case, which has the same damage at every run; exit code 1 says that there was one.
"""

import argparse
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

import torch

from fuzz_subject import Subject
from fuzz_subjects import SUBJECTS
from isospike.errors import IsospikeError

SECONDS = 20  # for one case
MORE_MEMORY = 400_000  # kilobytes beyond those of the sound files
LARGEST_MEMORY = 8_000_000_000  # bytes of addresses; PyTorch maps several, whatever it uses


class _TooLong(BaseException):
    """No Exception, so that no reader takes it for one of its own."""


def _too_long(number: int, frame: object) -> None:
    raise _TooLong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--cases", type=int, default=2000, help="of each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_MEMORY, LARGEST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _too_long)
    warnings.simplefilter("ignore")  # of Pillow and PyTorch, about what they are given
    torch.set_num_threads(1)
    found = 0
    for name in asked.readers:
        outcomes: Counter[str] = Counter()
        for fault in _faults(name, SUBJECTS[name], range(asked.first, asked.first + asked.cases), outcomes):
            found += 1
            print(fault, flush=True)
        print(f"{name}: {dict(outcomes)}", flush=True)
    return 1 if found else 0


def _faults(name: str, subject: Subject, cases: range, outcomes: Counter[str]) -> Iterator[str]:
    """A text for every case that was neither read nor refused in a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        sound, tried = Path(folder, "sound"), Path(folder, "tried")
        sound.mkdir()
        files = [path.relative_to(sound) for path in subject.make(sound)]
        subject.read(sound, sound / files[0])
        peak = _peak()
        for case in cases:
            rng = Random(f"{name} {case}")
            shutil.rmtree(tried, ignore_errors=True)
            shutil.copytree(sound, tried)
            path = tried / rng.choice(files)
            subject.damage(path, rng)
            print(f"{name} {case} {path.name}", file=sys.stderr, flush=True)  # who killed the process is the last one
            outcome = _outcome(subject, tried, path)
            if _peak() > peak + MORE_MEMORY:
                outcome, peak = f"it took {(_peak() - peak) // 1000:,} MB", _peak()
            outcomes[outcome if outcome in ("read", "refused") else "FAULT"] += 1
            if outcome not in ("read", "refused"):
                yield f"FAULT {name} {case} ({path.name}): {outcome}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _outcome(subject: Subject, folder: Path, damaged: Path) -> str:
    signal.alarm(SECONDS)
    try:
        subject.read(folder, damaged)
    except IsospikeError as error:
        text = str(error)
        if "\n" in text or len(text) > 1000 or damaged.name not in text and str(folder) not in text:
            return f"it is said in the wrong way: {text[:2000]!r}"
        return "refused"
    except _TooLong:
        return f"it takes more than {SECONDS} s"
    except BaseException as error:  # noqa: BLE001  that is what is looked for
        return f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-4:])}"
    finally:
        signal.alarm(0)
    return "read"


if __name__ == "__main__":
    sys.exit(main())
