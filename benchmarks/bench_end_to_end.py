"""pytest-benchmark suite of the bundled model, from seeds to samples and to files.

    pytest benchmarks/bench_end_to_end.py --benchmark-only

`restart-sampling bench` compares samplers in rotation; this suite follows one machine over time
(`--benchmark-autosave`, then `--benchmark-compare`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import restart_sampling as rs
from restart_sampling.experiments.measure.samplers import find

SAMPLERS = ["heun", "heun+restart", "dpm++2m", "edm-stochastic", "torch/restart-fp64"]


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("name", SAMPLERS)
def test_draw(benchmark: Any, name: str, batch: int) -> None:
    runner = find(name).runner(rs.load("fashion-mnist"), 18, batch_size=batch)
    assert runner is not None
    benchmark.extra_info.update(nfe=runner.nfe, batch=batch)
    benchmark.pedantic(runner.draw, (range(batch),), rounds=5, warmup_rounds=1)


def test_first_sample(benchmark: Any) -> None:
    """Weights from disk, plan, sampler, one sample."""

    def first() -> None:
        rs.sample(rs.load("fashion-mnist"), rs.preset("fashion-mnist-43"), seeds=[0], batch_size=1)

    benchmark.pedantic(first, rounds=5, warmup_rounds=1)


def test_generate(benchmark: Any, tmp_path: Path) -> None:
    """The command, with 16 images as files."""
    from restart_sampling.cli.app import app

    def generate() -> None:
        arguments = [
            "generate",
            "--steps",
            "9",
            "--seeds",
            "0-15",
            "--batch",
            "16",
            "--out",
            str(tmp_path),
            "--overwrite",
        ]
        app(arguments, standalone_mode=False)

    benchmark.pedantic(generate, rounds=3, warmup_rounds=1)
