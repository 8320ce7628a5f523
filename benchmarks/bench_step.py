"""pytest-benchmark suite of the fused step, the noise and the sampler on the CPU, for every backend available.

    pytest benchmarks/bench_step.py --benchmark-only
    pytest benchmarks/bench_step.py --benchmark-only --benchmark-compare        # against the last --benchmark-autosave

The shape is [64, 3, 32, 32], CIFAR-10 at batch 64; `benchmarks/overhead_cpu.py` compares with other samplers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import restart_kernels as rk
import restart_sampling as rs
from restart_kernels import layout as L
from restart_sampling.experiments.measure.timing import threads
from restart_sampling.models import parameterization

SHAPE = (64, 3, 32, 32)
CALLS = 1000  # of `advance` in one round: a single call is shorter than the timer resolves
BACKENDS = [name for name in rk.available_backends("cpu") if name != "triton"]  # it would run in the interpreter
ROWS = {
    "predictor": L.READ_X | L.READ_F | L.STORE_H | L.STORE_NET,
    "corrector": L.READ_H | L.READ_F | L.STORE_X | L.STORE_NET,
    "corrector and jump": L.READ_H | L.READ_F | L.STORE_X | L.STORE_NET,
}


@pytest.fixture(params=[1, torch.get_num_threads()], ids=lambda n: f"threads {n}", autouse=True)
def thread_count(request: pytest.FixtureRequest) -> Iterator[None]:
    with threads(request.param):
        yield


def machine(flags: int, s: float) -> rk.Machine:
    """Return a batch whose cursor is at row 0 of a table; `step` alone leaves it there."""
    coef = torch.full((CALLS + 1, L.NUM_COEF), 0.5)
    code = torch.zeros(CALLS + 1, L.NUM_CODE, dtype=torch.int32)
    coef[:, L.S] = s
    code[:, L.FLAGS], code[:, L.DRAW] = flags, 1
    x, batch = torch.randn(SHAPE), SHAPE[0]
    return rk.Machine(
        x=x,
        h=x.clone(),
        net_in=x.clone(),
        coef=coef,
        code=code,
        cursor=torch.zeros(1, dtype=torch.int32),
        seeds=torch.arange(batch),
        first_bad=torch.full((batch,), L.NEVER, dtype=torch.int32),
        c_noise=torch.zeros(1),
    )


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_step(benchmark: Any, backend: str, row: str) -> None:
    stepper = rk.bind(machine(ROWS[row], 0.3 if "jump" in row else 0.0), backend)
    F = torch.randn(SHAPE)
    benchmark.extra_info["bytes"] = 4 * F.numel() * 4  # two reads, two stores of float32
    benchmark(stepper.run_row, F)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thousand_advances(benchmark: Any, backend: str) -> None:
    stepper = rk.bind(machine(ROWS["predictor"], 0.0), backend)

    def advance() -> None:
        stepper.machine.cursor.zero_()
        for _ in range(CALLS):
            stepper.advance()

    benchmark(advance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_normal(benchmark: Any, backend: str) -> None:
    seeds, numel = torch.arange(SHAPE[0]), SHAPE[1] * SHAPE[2] * SHAPE[3]
    benchmark(rk.normal, seeds, 0, numel, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sampler_with_a_free_network(benchmark: Any, backend: str) -> None:
    """A whole run of Restart, 43 evaluations."""
    free = torch.randn(SHAPE)
    denoiser = rs.Denoiser(lambda net_in, c_noise, labels: free, parameterization.edm(), SHAPE[1:])
    plan = rs.preset("cifar10-edm-43")
    sampler = rs.Sampler(denoiser, plan, batch_size=SHAPE[0], backend=backend)
    benchmark.extra_info["nfe"] = plan.nfe
    benchmark(sampler.run, range(SHAPE[0]))
