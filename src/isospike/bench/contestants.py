"""Who competes in a case: processes, and the settings among which each is given its best."""

import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from isospike.bench.cases import Case, Work
from isospike.errors import ConfigError
from isospike.layers import MEMORY
from isospike.optional import import_optional
from isospike.own_rows import imported
from isospike.registry import Registry

Setting = dict[str, Any]
SCRIPTS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Contestant:
    """One column of the table.

    Args:
        name: As printed.
        role: "ours", "peer" or "floor".
        command: Starts its process.
        settings: Tried in turn where there are several; the fastest competes.
        like: Name of another contestant whose best setting it takes over, under its own.
    """

    name: str
    role: Literal["ours", "peer", "floor"]
    command: tuple[str, ...]
    settings: tuple[Setting, ...]
    like: str | None = None


@dataclass(frozen=True)
class Peer:
    """A library that runs in an environment of its own, or a runtime of exported networks, which runs in ours.

    Args:
        script: In ``peers/``.
        files: The forms and precisions of the files that it runs; none: it builds the network itself.
        cuda: Its implementations on a GPU, among which a trial chooses; none to choose from where empty.
        saves_memory: Whether it has a mode that saves memory in training.
        works: What it can do.
    """

    script: str
    files: tuple[tuple[str, str], ...] = ()
    cuda: tuple[str, ...] = ()
    saves_memory: bool = False
    works: tuple[Work, ...] = ("train", "infer", "fire_train", "fire")


PEERS: Registry[Peer] = Registry("peer")
# For a surrogate that its kernels do not have, as the rectangle, "auto" takes PyTorch; any other name is refused.
PEERS.register("spikingjelly", Peer("on_spikingjelly.py", (), ("auto", "triton"), True, get_args(Work)))
PEERS.register("snntorch", Peer("on_snntorch.py"))
PEERS.register("tonic", Peer("on_tonic.py", works=("frames",)))
FILES = (("static", "float32"), ("step", "float32"), ("static", "int8"))
PEERS.register("onnxruntime", Peer("on_onnxruntime.py", FILES, works=("infer",)))


def line_up(case: Case, peer_python: Path, device: str, compiled: bool) -> list[Contestant]:
    """List our network in every mode, the floor, and the peer with and without its memory optimisation.

    Ours import the rows that this process has imported.

    Args:
        case: What is measured.
        peer_python: Interpreter of the environment that holds the peers.
        device: As in PyTorch.
        compiled: Whether peers are tried under ``torch.compile`` as well.

    Raises:
        ConfigError: there is no such environment, and the text names the command that makes it; the peer does not do
            this work; or it is conversion, on another device than the CPU.
        MissingExtra: the peer runs in our environment, and is not there.
    """
    if case.converts and device != "cpu":
        raise ConfigError(
            f"converted networks are measured on the CPU, where they are compiled, not on {device}: take --device cpu"
        )
    own = (sys.executable, "-m", "isospike.bench.ours", *imported())
    work = "network" if case.has_network else case.work.removesuffix("_train")
    floor = "convolutions" if case.has_network else "ann" if case.converts else "copies"
    found = [
        Contestant(" ".join(["isospike", *mode.values()]), "ours", own, ({"contestant": work, **mode},))
        for mode in own_modes(case)
    ]
    found.append(Contestant(floor, "floor", own, ({"contestant": floor},)))
    if case.peer is None:
        return found
    peer = PEERS[case.peer]
    if case.work not in peer.works:
        raise ConfigError(f"{case.peer} does not do the work '{case.work}': it does {', '.join(peer.works)}")
    if peer.files:
        return found + _runtimes(case, peer, device)
    if not peer_python.is_file():
        raise ConfigError(
            f"the peers' environment has no {peer_python}: make it with isospike bench --setup, or measure without "
            "peers: --peer none"
        )
    command = (str(peer_python), str(SCRIPTS / peer.script))
    axes: dict[str, tuple[Any, ...]] = {} if case.counts else {"channels_last": (False, True)}
    if compiled and not case.counts:
        axes["compile"] = (False, True)
    if device.startswith("cuda") and peer.cuda:
        axes["implementation"] = peer.cuda
    settings = tuple(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    found.append(Contestant(case.peer, "peer", command, settings))
    if peer.saves_memory and case.work == "train":
        found.append(Contestant(f"{case.peer} memopt", "peer", command, ({"memory": True},), like=case.peer))
    return found


def _runtimes(case: Case, peer: Peer, device: str) -> list[Contestant]:
    """List a runtime once for every file that it runs."""
    if device != "cpu" or case.precision != "float32":
        raise ConfigError(f"{case.peer} runs exported networks on the CPU, in float32 or int8: take --device cpu")
    import_optional("onnxruntime", extra="onnx", purpose="a bench of exported networks")
    command = (sys.executable, str(SCRIPTS / peer.script))
    return [
        Contestant(f"{case.peer} {form} {precision}", "peer", command, ({"form": form, "precision": precision},))
        for form, precision in peer.files
    ]


def own_modes(case: Case) -> list[Mapping[str, str]]:
    """Return the ways in which our network does this work; the first is that of a model as it is created."""
    if not case.every_mode or not case.has_network:
        return [{}]
    if case.work == "train":
        return [{"memory": name} for name in MEMORY]
    if case.work == "infer" and case.precision == "float32":
        return [{}, {"inference": "float32"}, {"inference": "int8"}]
    return [{}]
