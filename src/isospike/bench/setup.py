"""The environment of the peers: made once, never part of ours."""

import subprocess
import sys
from pathlib import Path

from isospike.errors import RunFailed

REQUIREMENTS = Path(__file__).parent / "peers" / "requirements.txt"


def python_of(environment: Path) -> Path:
    """Return the interpreter of the environment."""
    return environment / "bin" / "python"


def set_up(environment: Path) -> None:
    """Make a virtual environment with the peers, exactly as ``peers/requirements.txt`` pins them.

    Raises:
        RunFailed: venv or pip failed; they have said why.
    """
    commands = [
        [sys.executable, "-m", "venv", str(environment)],
        [str(python_of(environment)), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(REQUIREMENTS)],
    ]
    for command in commands:
        if subprocess.run(command).returncode:
            raise RunFailed(f"the peers' environment could not be made: {' '.join(command)} failed")
