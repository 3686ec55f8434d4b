"""From the host's memory to a device's."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy the tensor to the device, without waiting for the work that the device has before it.

    Only memory that is pinned to its place is copied behind the host's back.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
