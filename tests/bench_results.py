"""Results of the bench, as ``isospike bench`` would save them."""

from isospike.bench.cases import GROWTH, growth_case
from isospike.bench.measure import summary


def contestant(name, role, seconds, memory=100.0):
    facts = {"name": name, "role": role, "versions": {}, "setting": {}, "trial": []}
    return {**facts, "seconds": summary(seconds), "peak_memory_mb": memory}


def row(case, agree=True, ours=(0.1, 0.2, 0.3)):
    check = {"what": "difference of loss", "value": 0.5, "limit": 0.05, "at_least": False, "holds": agree}
    return {
        **vars(case),
        "device": "cpu",
        "contestants": [
            contestant("isospike", "ours", list(ours)),
            contestant("convolutions", "floor", [0.05, 0.1, 0.2]),
            contestant("spikingjelly", "peer", [0.4, 0.4, 0.9], memory=250.0),
        ],
        "equality": [{"of": "spikingjelly", "agree": agree, "checks": [check]}],
    }


def result(rows):
    header = {"command": "isospike bench", "started": "2026-01-02T03:04:05", "gpu": None, "cpu": "a", "threads": 2}
    return {"header": header, "rows": rows}


def growth_result():
    """Ours takes a hundredth of a second times the square of what grows."""
    cases = [(growth_case(axis, value), value) for axis, values in GROWTH.items() for value in values]
    return result([row(case, ours=[0.01 * value**2] * 3) for case, value in cases])
