"""The measurement of guidance with samplers: equal trials and calls, pairing by block, what is said, the picture."""

from __future__ import annotations

import collections
import random
from pathlib import Path

import guidance
import pytest
import search_guidance
import search_samplers
from pages import _guidance as page

from restart_sampling.experiments.measure import shipped
from restart_sampling.experiments.measure.rows import append, read
from restart_sampling.plan.plan import Plan

RESULTS = Path(guidance.__file__).parent / "results"
CELLS = [(method, family) for method in search_guidance.METHODS for family in guidance.FAMILIES]
NOISE = (0.3, -0.2, 0.05, 0.1)


def rows_of(distance, blocks=3, **other):
    """Rows of all cells; distance(method, family) + noise of the block, which all share, + a little of the cell's."""
    return [
        {
            "method": method,
            "family": family,
            "features": features,
            "first_seed": guidance.FIRST_SEED + k * guidance.BLOCK,
            "fd_balanced": distance(method, family) + NOISE[k] + 0.001 * k * (place % 5),
            "precision": 0.8,
            "recall": 0.6,
            "plan": f"{method} {family}",
            "title": "Heun",
            "config": {"solver": "heun", "steps": 9, "rho": 7.0},
            "nfe": 17,
            "network_calls": 34,
            **other,
        }
        for place, (method, family) in enumerate(CELLS)
        for features in shipped.NAMES
        for k in range(blocks)
    ]


def test_differences_are_of_the_same_blocks_and_of_the_newest_plan():
    rows = rows_of(lambda method, family: 1.0 - 0.1 * (family == "restart"))
    old = [row | {"plan": "old", "fd_balanced": 9.0, "first_seed": 1} for row in rows[:4]]
    extra = [row | {"first_seed": 2, "fd_balanced": 9.0} for row in rows if row["family"] == "ode"]
    found = guidance.cells([*old, *rows, *extra])
    one, other = found["cfg", "restart"], found["cfg", "ode"]
    assert one.blocks == 3  # the fourth block of the ODEs is no one else's
    less = one.less(other, shipped.NAMES[0])
    assert less.mean == pytest.approx(-0.1, abs=0.01)
    assert less.error < 0.01  # the noise of a block, which both have, drops out
    assert less.sign == -1


def test_what_is_said_is_what_was_measured(tmp_path, monkeypatch):
    """Restart wins without guidance, loses under autoguidance, ties elsewhere; the interval helps ODEs alone."""

    def distance(method, family):
        restart = {"plain": -0.1, "autoguidance": 0.1}.get(method, 0.0) * (family == "restart")
        return 1.0 + restart - 0.2 * (method == "autoguidance-interval" and family == "ode")

    rows = rows_of(distance)
    for k, row in enumerate(rows):
        if row["method"] in ("cfg", "autoguidance-interval") and row["family"] != "ode":
            row["fd_balanced"] += (-1) ** k * 0.3  # too noisy to tell
    for row in rows:
        append(tmp_path / guidance.FILE, row)
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    said = " ".join(page.guidance_verdict().split())
    assert "Restart against the best SDE wins with no guidance, and ties with classifier-free guidance and" in said
    assert "and loses with autoguidance." in said
    assert "Against ODE without guidance, autoguidance in an interval lowers the distance." in said
    assert "Against SDE without guidance, no guidance wins." in said
    lines = page.guidance_differences().splitlines()
    assert len(lines) == 2 + 2 * len(search_guidance.METHODS)
    assert lines[2].endswith("| win |")
    assert len(page.guidance_cells().splitlines()) == 2 + len(CELLS)
    pytest.importorskip("matplotlib")
    guidance.picture(guidance.cells(rows), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("family", guidance.FAMILIES)
def test_the_first_trials_are_good_points_that_differ_and_fit(family):
    found = search_guidance.known(read(search_samplers.FILE), family)
    assert len(found) == search_guidance.FIRST
    plans = set()
    for point in found:
        guided = search_guidance.options(family, point | {"scale": 2.0})
        plan = Plan.build(**guided)
        plans.add(plan.digest)
        assert plan.config.family == family
        assert (
            plan.network_calls <= search_guidance.CALLS < 2 * Plan.build(**guided | {"steps": guided["steps"] + 2}).nfe
        )
    assert len(plans) == search_guidance.FIRST


def test_a_guided_plan_has_the_calls_that_its_share_allows():
    point = {"solver": "dpm++2m", "rho": 7.0, "scale": 2.0}
    calls = {
        share: Plan.build(**search_guidance.options("ode", point | {"share": share})).network_calls
        for share in (1, 0.5)
    }
    assert calls == {1: 36, 0.5: 18}
    inside = search_guidance.options("ode", point | {"low": 0.2, "high": 3.0})
    assert Plan.build(**inside).nfe > 18
    assert search_guidance.options("ode", point | {"low": 0.8, "high": 0.8}) is None


def test_an_interval_moves_as_other_coordinates_do():
    values = search_samplers.coordinates("ode") | search_guidance.METHODS["autoguidance-interval"]
    point = {"solver": "dpm++2m", "rho": 7.0, "share": 1.0, "scale": 2.0, "low": 0.2, "high": 3.0}
    rng = random.Random(0)
    changes = [search_samplers.moved(point, values, rng) for _ in range(200)]
    moved = collections.Counter(name for one in changes for name in one if one[name] != point[name])
    assert set(moved) == set(point)
    assert max(sum(one[name] != point[name] for name in one) for one in changes) == 3
