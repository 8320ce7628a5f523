"""pytest-benchmark suite of whole draws with a network that costs nothing: the time of each candidate's own work.

    pytest benchmarks/bench_sampler.py --benchmark-only
    pytest benchmarks/bench_sampler.py --benchmark-only -k "engine and threads 1"

The shape is [64, 3, 32, 32], CIFAR-10 at batch 64, and the budget is 35 evaluations; `extra_info` has the evaluations
that really run. The network returns a tensor that exists already, so a time is the loop's: preconditioning, noise,
steps. Plans and samplers are built before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import restart_sampling as rs
from restart_sampling.experiments.measure.samplers import select
from restart_sampling.experiments.measure.timing import threads
from restart_sampling.models import parameterization

BATCH, SHAPE, NFE = 64, (3, 32, 32), 35
CANDIDATES = {f"{candidate.by} {candidate.name}": candidate for candidate in select("all")}


@pytest.fixture(params=sorted({1, torch.get_num_threads()}), ids=lambda n: f"threads {n}", autouse=True)
def thread_count(request: pytest.FixtureRequest) -> Iterator[None]:
    with threads(request.param):
        yield


def free_denoiser() -> rs.Denoiser:
    """Return EDM's preconditioning around a network that returns one tensor."""
    F = torch.randn(BATCH, *SHAPE)

    def network(net_in: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        return F[: len(net_in)]

    return rs.Denoiser(network, parameterization.edm(0.5), SHAPE, name="free")


@pytest.mark.parametrize("name", CANDIDATES)
def test_draw(benchmark: Any, name: str) -> None:
    runner = CANDIDATES[name].runner(free_denoiser(), NFE, batch_size=BATCH)
    assert runner is not None
    benchmark.extra_info["nfe"] = runner.nfe
    runner.draw(range(BATCH))
    benchmark.pedantic(runner.draw, (range(BATCH),), rounds=5, warmup_rounds=1)
