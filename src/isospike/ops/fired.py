"""Notes on the tensors that neurons put out: their largest value and their bits, without a look at the values.

The note hangs on the tensor and is read from every view of it. It counts only while nobody has written into the tensor.
"""

from typing import NamedTuple

from torch import Tensor

from isospike.ops.memory import is_dense

NAME = "_isospike_fired"


class Fired(NamedTuple):
    """A tensor of integers.

    Attributes:
        levels: The largest that they can be; none is below 0.
        bits: Where they are 0 or 1, those that fired, 8 to a byte in the order of memory; None where nobody wrote them.
        version: How often the tensor had been written into.
    """

    levels: int
    bits: Tensor | None
    version: int


def note_fired(s: Tensor, levels: int, bits: Tensor | None = None) -> None:
    """Note that ``s`` holds integers in {0, ..., levels}; not in inference mode, where writes are not counted."""
    if s.is_inference():
        return
    setattr(s, NAME, Fired(levels, bits, s._version))


def fired(x: Tensor) -> Fired | None:
    """Read the note of ``x``, or of the tensor of which it is a view; bits only where it is the whole tensor."""
    whole = x if x._base is None else x._base
    note: Fired | None = getattr(whole, NAME, None)
    if note is None or note.version != x._version:
        return None
    if is_dense(x) and x.numel() == whole.numel():
        return note
    return note._replace(bits=None)
