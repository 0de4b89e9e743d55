"""Triton kernels for CUDA devices; imported for tensors of one, or of the host under ``TRITON_INTERPRET=1``, and not before."""
