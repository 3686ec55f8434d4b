"""The operations on CUDA devices: Triton kernels, launched on the memory of tensors."""
