"""The operations on CPUs: a compiled C library, called on the memory of tensors."""
