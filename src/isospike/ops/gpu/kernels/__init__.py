"""Triton kernels; they are imported only once something is to run on the device."""
