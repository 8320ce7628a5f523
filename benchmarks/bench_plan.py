"""pytest-benchmark suite of what happens before a run: compiling a plan, fitting one to a budget, binding it.

pytest benchmarks/bench_plan.py --benchmark-only
"""

from __future__ import annotations

from typing import Any

import pytest

import restart_sampling as rs
from restart_sampling.experiments.measure.engine import plan_for
from restart_sampling.models import parameterization
from restart_sampling.sampler.table import bind
from restart_sampling.solvers.registry import handling

SOLVERS = handling("ve")
PRESETS = ["cifar10-edm-43", "cifar10-vp-519", "imagenet64-edm-623"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_compile(benchmark: Any, solver: str) -> None:
    plan = benchmark(rs.Plan.build, steps=18, solver=solver, restart=[3, 2, 0.30, 1.0])
    benchmark.extra_info["nfe"] = plan.nfe


@pytest.mark.parametrize("name", PRESETS)
def test_compile_a_preset(benchmark: Any, name: str) -> None:
    benchmark.extra_info["nfe"] = benchmark(rs.preset, name).nfe


@pytest.mark.parametrize("nfe", [35, 511])
def test_choose_for_a_budget(benchmark: Any, nfe: int) -> None:
    benchmark(plan_for, "heun", nfe, True)


@pytest.mark.parametrize("name", PRESETS)
def test_bind(benchmark: Any, name: str) -> None:
    """Folding the plan onto a network's coefficients and levels."""
    benchmark(bind, rs.preset(name), parameterization.edm(0.5))
