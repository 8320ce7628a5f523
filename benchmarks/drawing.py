r"""Draw the images of a plan with several processes of one thread each.

Operations of a small network are too short to share among threads, so one sampler leaves most of a second core idle.
Images depend on their seeds alone, so who draws which changes nothing.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

import restart_sampling as rs
from restart_sampling.common.errors import NonFiniteError
from restart_sampling.experiments.measure import image_cache
from restart_sampling.experiments.measure.engine import EngineRunner
from restart_sampling.experiments.measure.quality import block_of

_drawing: dict[str, Any] = {}


class Drawer:
    """Processes that draw from one model, or from one that another guides, `batch` images at a time in `dtype`."""

    def __init__(
        self, model: str, batch: int, dtype: str = "fp32", processes: int | None = None, guide: str | None = None
    ) -> None:
        self.processes = processes or os.cpu_count() or 1
        spawn = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(self.processes, spawn, _start, (model, batch, dtype, guide))

    def draw(self, options: dict[str, Any], first_seed: int, n: int) -> tuple[Tensor, Tensor]:
        """Return (images uint8 [n, C, H, W], classes int64 [n]) of the plan of `options` on n seeds.

        Raises:
            NonFiniteError: samples are NaN or infinite.
        """
        bounds = [first_seed + n * k // self.processes for k in range(self.processes + 1)]
        parts = [self.pool.submit(_draw, options, a, b - a) for a, b in itertools.pairwise(bounds) if b > a]
        drawn = [part.result() for part in parts]
        if None in drawn:
            raise NonFiniteError("samples are NaN or infinite")
        images, labels = zip(*drawn, strict=True)
        return torch.cat(images), torch.cat(labels)


def _start(model: str, batch: int, dtype: str, guide: str | None) -> None:
    torch.set_num_threads(1)
    _drawing.update(denoiser=rs.load(model, guide=guide), batch=batch, dtype=dtype)


def _draw(options: dict[str, Any], first_seed: int, n: int) -> tuple[Tensor, Tensor] | None:
    denoiser, batch = _drawing["denoiser"], _drawing["batch"]
    runner = EngineRunner(denoiser, rs.Plan.build(**options), batch, _drawing["dtype"])
    try:
        images, labels = block_of(denoiser, runner, image_cache.default_folder(), first_seed, n, batch)
    except NonFiniteError:
        return None
    assert labels is not None, "bundled models have classes"
    return images, labels
