"""Whether tensors still hold what they held: ``csrc/digest.c``.

PyTorch counts writes into a tensor, but not those through ``.data`` or through memory that it shares with NumPy.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from isospike.ops.cpu.library import compiled
from isospike.ops.memory import is_dense


def digests(tensors: Sequence[Tensor]) -> list[int]:
    """A number for what each tensor in the memory of the CPU holds: others where it holds something else."""
    dense = [x if is_dense(x) else x.contiguous() for x in tensors]
    count = len(dense)
    data = (ctypes.c_void_p * count)(*(x.data_ptr() for x in dense))
    sizes = (ctypes.c_int64 * count)(*(x.numel() * x.element_size() for x in dense))
    found = (ctypes.c_uint64 * count)()
    compiled().isospike_digest(count, data, sizes, found, torch.get_num_threads())
    return list(found)
