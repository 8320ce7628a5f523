"""What a forked child may use of PyTorch's threads: none.

A fork copies the calling thread alone. OpenMP, which runs PyTorch's operators, does not notice: the first operator that
is shared out among threads waits for ever for workers that the child does not have. So a child gets one thread for
PyTorch, as the workers of a DataLoader do. It is decided when sampling begins, since the parent may have used its
threads anywhere."""

from __future__ import annotations

import os

import torch

NOTE = (
    "this process was forked, and PyTorch's threads do not survive a fork: it runs on one thread; "
    "start processes with 'spawn' for more"
)
_home = os.getpid()  # the process that imported this, or the child that has settled since
_cut = 0  # the process whose threads were cut


def settle() -> None:
    """Give a forked child one thread for PyTorch, once; does nothing in any other process."""
    global _home, _cut
    if (pid := os.getpid()) == _home:
        return
    _home = pid
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        _cut = pid


def note() -> str:
    """Return what to tell the user of this process, empty where nothing was changed."""
    return NOTE if os.getpid() == _cut else ""
