"""The largest plan within a budget, against all plans."""

from __future__ import annotations

import pytest

import restart_sampling as rs
from restart_sampling.plan.budget import most_points
from restart_sampling.solvers.registry import SOLVERS, handling


@pytest.mark.parametrize("least", [1, 2, 5])
@pytest.mark.parametrize("name", handling("ve"))
def test_it_is_the_largest_that_fits(name, least):
    """By trying every number of points; a few have no plan."""
    cost = {n: rs.Plan.build(steps=n, solver=name, restart=[3, 2, 1.0, 5.0]).nfe for n in range(4, 40)}
    cost |= {7: None, 8: None, 21: None}
    per_step = SOLVERS[name].evaluations
    for budget in range(130):
        fits = [n for n, nfe in cost.items() if nfe is not None and nfe <= budget and n >= least]
        assert most_points(cost.get, budget, per_step, start=39, least=least) == max(fits, default=None)


def test_it_makes_few_plans():
    tried = []
    n = most_points(lambda n: (tried.append(n), 2 * n - 1)[1], 35, 2, start=1000)
    assert (n, len(tried)) == (18, 2)
