"""The recurrence, alone and behind a norm, in Triton kernels for CUDA devices."""

from isospike.ops.gpu.fire import leaky_fire, refusal
from isospike.ops.gpu.norm import norm_fire
from isospike.ops.gpu.norm import refusal as refuses_norm_fire

__all__ = ["leaky_fire", "norm_fire", "refusal", "refuses_norm_fire"]
