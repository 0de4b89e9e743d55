"""Triton kernels, imported only for tensors on a CUDA device or where TRITON_INTERPRET=1 runs them on the host."""
