"""The recurrence in Triton kernels, for CUDA devices."""

from isospike.ops.gpu.fire import leaky_fire, refusal

__all__ = ["leaky_fire", "refusal"]
