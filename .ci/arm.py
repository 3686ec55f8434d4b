"""A Debian for ARM (aarch64) with Python and PyTorch in a folder, whose programs qemu runs: for the lane of that name.

    python .ci/arm.py FOLDER       makes it there, about 1 GB

Needs no rights: apt keeps a state of its own in the folder. The packages come from where this machine gets its own.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("qemu-aarch64", "aarch64-linux-gnu-gcc", "apt-get", "dpkg")  # Debian: qemu-user, gcc-aarch64-linux-gnu
# The last whose wheel for ARM is of the CPU alone; what it imports is listed here, as its wheel is taken by itself.
TORCH = "torch==2.10.0"
IMPORTED = ("filelock", "fsspec", "jinja2", "networkx", "sympy", "typing_extensions", "pytest", "pytest-xdist")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


class NoPackages(Exception):
    """They cannot be fetched."""


def run(*command: str) -> None:
    """Raises ``NoPackages`` with the command that failed, and why."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NoPackages(f"{' '.join(command[:3])} ...: {lines[-1] if lines else f'exit code {done.returncode}'}")


def install_debian(folder: Path) -> None:
    """Python and the libraries of the C compilers, without what an installation would set up."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    own = {"Dir::State": "state", "Dir::Cache": "cache", "Dir::State::status": "status"}
    options = [word for key, name in own.items() for word in ("-o", f"{key}={folder / name}")]
    options += ["-o", "APT::Architecture=arm64", "-o", "APT::Architectures::=arm64", "-o", "APT::Sandbox::User="]
    run("apt-get", "-qq", *options, "update")
    wanted = ("python3", "libgomp1", "libstdc++6", "zlib1g")
    run("apt-get", "-qq", "-y", *options, "--no-install-recommends", "--download-only", "install", *wanted)
    for package in (folder / "cache/archives").glob("*.deb"):
        run("dpkg", "-x", str(package), str(folder / "root"))


def install_wheels(folder: Path, python: Path) -> None:
    """PyTorch, what the package needs, and pytest."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needs = [need for need in needs if not need.startswith("torch")]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    version = python.name.removeprefix("python")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder / "site"), *platforms]
    pip += ["--python-version", version, "--only-binary", ":all:"]
    run(*pip, "--no-deps", TORCH)
    run(*pip, "-c", str(ROOT / "constraints.txt"), *needs, *IMPORTED)


def interpreter(folder: Path) -> Path:
    """Python in there."""
    (found,) = [path for path in (folder / "root/usr/bin").iterdir() if re.fullmatch(r"python3\.\d+", path.name)]
    return found


def command(folder: Path) -> list[str]:
    """What starts it here; PYTHONPATH must name ``folder / "site"`` too."""
    return ["qemu-aarch64", "-L", str(folder / "root"), str(interpreter(folder))]


def make(folder: Path) -> None:
    """All of it, unless it is there."""
    done = folder / "done"
    if not done.exists():
        install_debian(folder)
        install_wheels(folder, interpreter(folder))
        done.touch()


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
