"""Where results go, and what a row of them says about where it was measured."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from restart_sampling.experiments.measure.rows import commit, cpu

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, object]:
    """Return the fields that every row has."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu(),
        "commit": commit(),
    }
