"""PyTorch's threads in a forked process: it gets one.

A fork copies the calling thread alone. OpenMP, which runs PyTorch's operators, does not notice: the first operator that
is shared out among threads waits for ever for workers that the child does not have. So a child gets one thread for
PyTorch, as the workers of a DataLoader do. This is decided when sampling begins, since the parent may have used its
threads anywhere."""

from __future__ import annotations

import os

NOTE = (
    "this process was forked, and PyTorch's threads do not survive a fork: it runs on one thread; "
    "start processes with 'spawn' for more"
)
_home = os.getpid()  # the process that imported this module, or the child that has settled since
_limited = 0  # the process whose number of threads was lowered


def settle() -> None:
    """Give a forked child one thread for PyTorch, once; any other process is left alone."""
    global _home, _limited
    if (pid := os.getpid()) == _home:
        return
    _home = pid
    import torch

    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        _limited = pid


def note() -> str:
    """Return what the user of this process should know, or "" where nothing was changed."""
    return NOTE if os.getpid() == _limited else ""
