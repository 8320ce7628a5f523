"""Launching the Triton kernels."""


def interpreted() -> bool:
    """Whether Triton runs its kernels in the interpreter, on CPU tensors."""
    return False
