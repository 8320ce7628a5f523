"""Random runs: plans, guidance, conditions, starts and masks against the literal loop in float64, or one clear refusal.

More of them: `python benchmarks/random_plans.py`, or `pytest tests/sampler/test_random_runs.py --trials 10`.
"""

from __future__ import annotations

import pytest
import torch
from support import literal, random_runs


def test_random_runs_are_the_literal_loop_or_refused(trials, one_thread):
    first, n = trials.start(0), trials.count(150)
    found = [random_runs.check(seed) for seed in range(first, first + n)]
    ran = [one for one in found if one != "refused"]
    assert len(ran) > n / 2 and sum(one.by_float32 for one in ran) < n / 50


def ran(seeds=range(40)):
    """The first seed whose case runs and is not mixed."""
    return next(seed for seed in seeds if not random_runs.make(seed).pairs and random_runs.check(seed) != "refused")


@pytest.mark.parametrize("wrong", ["samples", "calls", "error"])
def test_the_comparison_can_fail(wrong, monkeypatch, one_thread):
    seed, run = ran(), literal.run

    def other(*arguments, **options):
        x, calls = run(*arguments, **options)
        return x + (1e-3 * x.abs().max() if wrong == "samples" else 0), calls

    monkeypatch.setattr(literal, "run", other)
    if wrong == "calls":
        monkeypatch.setattr(random_runs.Net, "__call__", lambda self, *a, **k: self.output(*a, **k))
    if wrong == "error":
        monkeypatch.setattr(random_runs.Net, "__call__", lambda self, *a, **k: torch.zeros(()).item().missing)
    with pytest.raises(random_runs.Wrong):
        random_runs.check(
            next(s for s in range(seed, 99) if random_runs.make(s).mode == "off") if wrong == "calls" else seed
        )
