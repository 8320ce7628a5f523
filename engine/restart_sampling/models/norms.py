"""Where the norms of networks run as one kernel, and where as PyTorch's operators.

On CUDA without gradients a norm and what stands around it are one launch of `restart_kernels.norm`. Elsewhere they are
PyTorch's operators: training needs their gradients, torch.compile fuses them by itself, and on a CPU nothing is gained.
"""

from __future__ import annotations

import torch
from torch import Tensor

import restart_kernels
from restart_kernels.norm import FLOATS


def fused(x: Tensor) -> bool:
    """Return whether a norm of x is one kernel."""
    if not x.is_cuda or x.dtype not in FLOATS or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return restart_kernels.why_not("triton", x.device) is None
