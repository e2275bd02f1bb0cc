"""The engine for PyTorch tensors on a GPU: Triton kernels and what launches them."""
