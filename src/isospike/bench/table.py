"""The table: what follows from the measured times, on the terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from isospike.bench.limits import Limits, nearness
from isospike.bench.measure import Row, summary
from isospike.bench.worker import GIVES_BACK, KEEPS

COLUMNS = ("contestant", "time, ms", "quartiles", "images/s", "MB", "of floor", "speed-up")
WORKS = {
    "train": "training step",
    "infer": "inference",
    "fire_train": "LIF neurons, forward and backward",
    "fire": "LIF neurons, forward",
    "frames": "frames by count",
    "convert": "conversion of the ANN",
    "simulate": "simulation of the converted ANN",
}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """Return ``above / below`` of every turn, in which one was measured right after the other: median and quartiles."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def title(row: Row) -> str:
    """Return what was measured."""
    options = "".join(f", {key}={value}" for key, value in row["options"].items())
    firing = f", {row['firing']:.0%} firing" if row.get("firing") else ""  # results of old do not say
    return (
        f"{row['model']}{options}, {WORKS[row['work']]}: T={row['T']}, batch {row['batch']}, "
        f"{row['size']}x{row['size']}, {row['precision']}, {row['device']}{firing}"
    )


def lines(row: Row) -> list[list[str]]:
    """Return a line of cells, in the order of ``COLUMNS``, for every contestant."""
    floor, peer = one_of(row, "floor"), _first(row, "peer")
    refused = {check["of"] for check in row["equality"] if not check["agree"]}
    found = []
    for one in row["contestants"]:
        seconds, values = one["seconds"], one["seconds"]["all"]
        low, high = seconds["quartiles"]
        of_floor = ratio(values, floor["seconds"]["all"])["median"]
        speed_up = "-"
        if one["name"] in refused:
            speed_up = "not comparable"
        elif one["role"] == "ours" and peer is not None and peer["name"] not in refused:
            speed_up = _times(ratio(peer["seconds"]["all"], values))
        found.append(
            [
                one["name"],
                _ms(seconds["median"]),
                f"{_ms(low)}-{_ms(high)}",
                "-" if one["role"] == "floor" else f"{row['batch'] / seconds['median']:,.0f}",
                "-" if one["role"] == "floor" else f"{one['peak_memory_mb']:,.0f}",
                "-" if one["role"] == "floor" else f"{of_floor:.2f}x",
                speed_up,
            ]
        )
    return found


def refusals(row: Row) -> list[str]:
    """Return a sentence for every contestant that did not compute what ours did."""
    found = []
    for equality in row["equality"]:
        failed = [check for check in equality["checks"] if not check["holds"]]
        if failed:
            said = "; ".join(
                f"{check['what']} is {check['value']:.3g}, "
                f"{'at least' if check['at_least'] else 'at most'} {check['limit']:g} is allowed"
                for check in failed
            )
            found.append(f"not comparable: {equality['of']}, {title(row)}: {said}")
    return found


def notes(row: Row, limits: Limits | None) -> list[str]:
    """Return the trials of settings, how closely outputs agree, and how near it is to the limits of the machine."""
    found = []
    for one in row["contestants"]:
        if one["trial"]:
            tried = ", ".join(
                f"{_setting(t['setting'])} {_ms(t['seconds'])} ms"
                if "seconds" in t
                else f"{_setting(t['setting'])} fails"
                for t in one["trial"]
            )
            found.append(f"{one['name']} runs {_setting(one['setting'])}; tried: {tried}")
    files = ((one["name"], one["file"]) for one in row["contestants"] if "file" in one)
    found += [f"{name} runs a file of {file['megabytes']:.2f} MB, opset {file['opset']}" for name, file in files]
    for equality in row["equality"]:
        said = ", ".join(f"{check['what']} {check['value']:.2g}" for check in equality["checks"])
        found.append(f"{equality['of']} against {row['contestants'][0]['name']}: {said}")
    return found + nearness(row, limits)


def header_lines(result: Mapping[str, Any]) -> list[str]:
    """Return lines with the command, the hardware and the versions."""
    header = result["header"]
    cpu = ", ".join(filter(None, (header["cpu"], header.get("instruction_set"), f"{header['threads']} threads")))
    versions = dict(
        sorted({k: v for row in result["rows"] for c in row["contestants"] for k, v in c["versions"].items()}.items())
    )
    return [
        f"{header['command']}: {header['started'][:10]}, {header['gpu'] or cpu}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        "medians of interleaved turns, each contestant in a process of its own; speed-up is that over the first peer; "
        "MB is the peak of memory above that before the network was built, when PyTorch had taken a training step of a "
        "few layers, in a process of its own where glibc gives "
        f"back what is freed ({_variables(GIVES_BACK)}); where times were taken it keeps it ({_variables(KEEPS)})",
    ]


def markdown(result: Mapping[str, Any]) -> str:
    """Return every row, for a document."""
    parts: list[str] = []
    for row in result["rows"]:
        parts.append(f"**{title(row)}**\n")
        table = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        table += ["| " + " | ".join(line) + " |" for line in lines(row)]
        parts.append("\n".join(table) + "\n")
        limits = result["header"].get("limits")  # results of old do not say
        parts += [f"{note}.\n" for note in (*notes(row, limits), *refusals(row))]
    return "\n".join(parts)


def one_of(row: Row, role: str) -> dict[str, Any]:
    """Return the first contestant that is "ours" or the "floor".

    Raises:
        LookupError: a row that was not written by ``isospike bench`` has none.
    """
    found = _first(row, role)
    if found is None:
        raise LookupError(f"no contestant is the {role}")
    return found


def _first(row: Row, role: str) -> dict[str, Any] | None:
    return next((one for one in row["contestants"] if one["role"] == role), None)


def _setting(setting: Mapping[str, Any]) -> str:
    words = ["channels-last" if setting.get("channels_last") else "contiguous"]
    words += ["compiled"] if setting.get("compile") else []
    words += [setting["implementation"]] if setting.get("implementation") else []
    return ", ".join(words)


def _variables(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _ms(seconds: float) -> str:
    """Return milliseconds, with decimals where they say something."""
    ms = seconds * 1e3
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def _times(found: Mapping[str, Any]) -> str:
    low, high = found["quartiles"]
    return f"{found['median']:.2f}x ({low:.2f}-{high:.2f})"
