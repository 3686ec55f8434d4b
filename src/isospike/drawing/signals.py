"""What flows along the lines of a unit: derived from its words, and from how many levels its neurons have.

``graph/domains.py`` says the same of a built model, with bounds; a test holds the two together.
"""

from collections.abc import Iterable

from isospike.residual import COMBINES, Topology

SPIKES = "spikes"  # 0 or 1: a convolution that reads them only adds
COUNTS = "counts"  # integers from 0 on
REAL = "real numbers"
CURRENTS = "currents"
STREAM_CURRENTS = "membrane currents"


def fired(topology: Topology) -> str:
    """Return what a neuron of this row puts out."""
    if topology.levels is None:
        return REAL
    return SPIKES if topology.levels == 1 else COUNTS


def carried(topology: Topology) -> str:
    """Return what flows from unit to unit."""
    if topology.stream == "membrane":
        return STREAM_CURRENTS
    signal = fired(topology)
    if topology.join is None or topology.after or topology.join.binary:
        return signal
    if COMBINES[topology.combine].changes_sum:
        return REAL
    return COUNTS if signal == SPIKES else signal


def reads(topology: Topology, words: Iterable[str], entering: str) -> list[str]:
    """Return what each of ``words`` reads where ``entering`` comes in, and as the last item what comes out."""
    signals = [entering]
    for word in words:
        signals.append(_put_out(topology, word, signals[-1]))
    return signals


def _put_out(topology: Topology, word: str, signal: str) -> str:
    if word == "spike":
        return fired(topology)
    if word == "conv":
        return CURRENTS
    if word == "pool" and signal == STREAM_CURRENTS:
        return signal
    return CURRENTS if signal in (CURRENTS, STREAM_CURRENTS) else REAL
