"""How much memory a process has held and can still take."""

import resource
from collections.abc import Iterator
from pathlib import Path

import torch


def peak_memory_mb(device: torch.device) -> float:
    """Return the most memory held so far: allocated on a GPU, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    # Unlike getrusage's, this peak does not begin with that of the process that started this one.
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def available_memory(device: torch.device) -> float:
    """Return the bytes that a process can still allocate on a device, on a GPU with what PyTorch keeps unused."""
    if device.type != "cuda":
        return available_to_process()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def available_to_process(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the bytes that this process can still take of the machine and of its cgroups.

    Args:
        proc: Where the kernel describes processes.
        cgroups: Where cgroups are mounted, of version 1 or 2.
    """
    rooms = [_room(folder) for folder in _memory_cgroups(proc / "self" / "cgroup", cgroups)]
    return min([_fields(proc / "meminfo")["MemAvailable:"] * 1024, *rooms])


def _memory_cgroups(membership: Path, cgroups: Path) -> Iterator[Path]:
    """Yield the folders of the cgroups that the process is in, from its own to the root, for each version.

    In a container the path may be that of the host, or lead out of what is mounted: then only the root is there to see.
    """
    for line in membership.read_text().splitlines() if membership.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        own = root.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _room(cgroup: Path) -> float:
    """Return the bytes that a cgroup leaves; files count as free, since the kernel drops them."""
    for limit, usage, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        if (cgroup / limit).is_file():
            files = _fields(cgroup / "memory.stat")
            held = int((cgroup / usage).read_text())
            cached = files[f"{prefix}active_file"] + files[f"{prefix}inactive_file"]
            return float((cgroup / limit).read_text().replace("max", "inf")) - held + cached
    return float("inf")


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file of the kernel that has a name and a number on each line."""
    return {name: int(number) for name, number, *_ in map(str.split, path.read_text().splitlines())}
