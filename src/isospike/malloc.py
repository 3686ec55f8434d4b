"""How glibc's allocator treats large tensors; it holds for the whole process, so commands set it and the library does
not."""

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of giving it back to the system; whether it was possible.

    By default every tensor of more than 32 MB is mapped anew, and the system zeroes all its pages, at every step.
    For large batches on a CPU that costs as much as the convolutions (docs/performance.md). The peak of resident memory
    grows little. It holds for the whole process, so commands call it and the library does not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def return_freed_memory() -> bool:
    """Let glibc give every tensor of more than a megabyte back when it is freed; whether it was possible.

    The opposite of ``keep_freed_memory``, for runs that must be small: what is held is what is alive, and zeroing new
    pages takes its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 65536)) and bool(mallopt(_M_MMAP_THRESHOLD, 2**20))
