"""Which tensors hold values that are not finite."""

from collections.abc import Mapping

from torch import Tensor


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """In words, the names of the tensors that hold NaN or infinity: the first, and how many more; "" for none."""
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if not names:
        return ""
    return f"'{names[0]}'" + (f" and {len(names) - 1} more tensors" if len(names) > 1 else "")
