"""The comparison of the families: differences block by block, verdicts, what is said, the picture, the choice."""

from __future__ import annotations

import collections
import io
import json
import math
from pathlib import Path

import comparison as script
import pytest

from restart_sampling.experiments.measure import comparison
from restart_sampling.experiments.measure.rows import read
from restart_sampling.experiments.report.clean import cleaned

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("one", "two", "tuner")


def row(family, budget, seed, features, distance, **other):
    return {
        "kind": "comparison",
        "family": family,
        "budget": budget,
        "nfe": budget,
        "key": f"{family}{budget}",
        "features": features,
        "first_seed": seed,
        "fd_balanced": distance,
        "model": "m",
        "n": 1000,
        "tuned_on": "tuner",
        "trials": 7,
        "title": family.title(),
        "config": {"steps": 9},
        "restart": "",
        **other,
    }


def cells(family, budget, values, **other):
    """Rows of a cell: the value of every block is that of `values`, alike on all features."""
    return [row(family, budget, k, name, value, **other) for name in NAMES for k, value in enumerate(values)]


def made(*rows):
    return comparison.comparison([one for some in rows for one in some])


def test_a_difference_is_the_mean_over_shared_blocks_with_its_standard_error():
    found = made(cells("restart", 20, [1.0, 2.0, 4.0]), cells("sde", 20, [2.0, 2.5, 5.5, 100.0]))
    less = found.against(20, "sde")["one"]
    assert (less.mean, less.blocks) == (pytest.approx(-1.0), 3)  # of −1, −0.5 and −1.5; the fourth block is not shared
    assert less.error == pytest.approx(0.5 / math.sqrt(3))
    assert less.sign == -1


@pytest.mark.parametrize(
    ("restart", "verdict"),
    [([1.0, 1.1, 0.9], -1), ([2.9, 3.1, 3.0], 1), ([1.9, 2.1, 2.05], 0), ([1.0, 1.1], None)],
    ids=["win", "loss", "tie", "two blocks"],
)
def test_verdicts(restart, verdict):
    found = made(cells("restart", 20, restart), cells("sde", 20, [2.0, 2.0, 2.0]))
    assert found.verdict(found.against(20, "sde")) == verdict


def test_a_win_is_one_on_every_extractor_that_chose_no_plan():
    """The one that chose the plans has no say, and one that ties makes it no win."""
    rows = cells("restart", 20, [1.0, 1.1, 0.9]) + cells("sde", 20, [2.0, 2.0, 2.0])
    worse = [
        one | {"fd_balanced": 9.0} if (one["family"], one["features"]) == ("restart", "tuner") else one for one in rows
    ]
    found = comparison.comparison(worse)
    assert found.held_out == ("one", "two")
    assert found.verdict(found.against(20, "sde")) == -1
    tied = [
        one | {"fd_balanced": 2.0} if (one["family"], one["features"]) == ("restart", "two") else one for one in rows
    ]
    found = comparison.comparison(tied)
    assert found.verdict(found.against(20, "sde")) == 0


def test_the_best_sde_is_of_any_budget_and_restart_may_pass_it_with_fewer_evaluations():
    sde = cells("sde", 20, [3.0, 3.1, 3.0]) + cells("sde", 60, [2.0, 2.1, 2.0])
    found = made(cells("restart", 20, [2.0, 2.0, 2.05]), cells("restart", 40, [1.0, 1.1, 1.0]), sde)
    assert found.best_sde("one").budget == 60
    assert (found.first(passes=False).budget, found.first(passes=True).budget) == (20, 40)
    said = " ".join(comparison.sentences(found))
    assert "Restart reaches the best SDE of at most 60 evaluations with 20 evaluations" in said
    assert "is 0.33 of the SDE's 60" in said
    assert "is 0.67 of the SDE's 60" in said
    never = made(cells("restart", 20, [5.0, 5.0, 5.1]), sde)
    assert never.first(passes=False) is None
    assert "No Restart plan reaches the best SDE" in " ".join(comparison.sentences(never))
    assert "loses at 20" in " ".join(comparison.sentences(never))


def test_a_cell_is_its_newest_plan_and_has_all_extractors():
    old, new = cells("restart", 20, [9.0, 9.0]), cells("restart", 20, [1.0, 1.5], key="other")
    found = made(old, new, cells("sde", 20, [2.0, 2.0]), [row("sde", 60, 0, "one", 0.1)])
    assert found.cells["restart", 20].mean("one") == 1.25
    assert ("sde", 60) not in found.cells  # measured by one extractor alone
    assert made(cells("restart", 20, [1.0])) is None


def test_rows_pass_the_report_and_training_images_are_a_floor():
    rows = cells("restart", 20, [1.0, 1.1]) + cells("sde", 20, [2.0, 2.2]) + cells("data", 0, [0.4, 0.6])
    usable, left_out = cleaned(rows)
    assert not left_out
    found = comparison.comparison(usable)
    assert found.floor == dict.fromkeys(NAMES, 0.5)
    assert {family for family, _ in found.cells} == {"restart", "sde"}


def test_the_picture_and_the_tables():
    pytest.importorskip("matplotlib")
    from restart_sampling.experiments.report import comparison as shown

    both = [
        f
        for budget in (5, 20)
        for f in (cells("restart", budget, [1.0, 1.2, 1.1]), cells("sde", budget, [2.0, 2.1, 2.05]))
    ]
    found = made(*both, cells("ode", 20, [1.1, 1.15]))
    buffer = io.BytesIO()
    shown.picture(found, buffer)
    assert buffer.getvalue().startswith(b"\x89PNG")
    table = shown.table(found)
    assert [line[:2] for line in table.cells] == [("5", "best SDE"), ("20", "best ODE"), ("20", "best SDE")]
    assert table.cells[2][2] == "−0.950 ± 0.029, win"
    assert table.cells[2][-1] == "win"
    assert len(shown.plans(found).cells) == 5


def searched(family, budget, trial, fd, nfe, plan, seed=None, **options):
    return {
        "family": family,
        "budget": budget,
        **({} if trial is None else {"trial": trial}),
        "first_seed": seed
        or (script.search_samplers.AGAIN_SEED if trial is None else script.search_samplers.FIRST_SEED),
        "fd": fd,
        "nfe": nfe,
        "plan": plan,
        "options": {"steps": 9, **options},
    }


def test_the_best_of_at_most_a_budget_is_chosen(tmp_path):
    """As drawn again, whatever the trial said. A plan may be the best of several budgets, one that failed of none."""
    trials = [
        *(searched(family, 12, 0, 0.1, 12, f"a-{family}") for family in ("ode", "sde", "restart")),
        *(searched(family, 18, 0, 0.2, 18, f"b-{family}") for family in ("ode", "sde", "restart")),
        *(searched(family, 12, None, 0.5, 12, f"a-{family}") for family in ("ode", "sde")),
        *(searched(family, 18, None, 0.6, 18, f"b-{family}") for family in ("ode", "sde")),
        searched("restart", 12, None, None, 12, "a"),
        searched("restart", 18, None, 0.4, 18, "b"),
    ]
    path = tmp_path / "families.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in trials))
    assert {family: len(rows) for family, rows in script.searches(tmp_path).items()} == {
        "ode": 2,
        "sde": 2,
        "restart": 2,
    }
    chosen = script.winners(tmp_path)
    assert {cell: one["plan"] for cell, one in chosen.items() if cell[1] in (5, 12, 27)} == {
        ("ode", 12): "a-ode",
        ("sde", 12): "a-sde",
        ("ode", 27): "a-ode",
        ("sde", 27): "a-sde",
        ("restart", 27): "b",
    }
    path.write_text(path.read_text() + json.dumps(searched("sde", 18, 1, 0.1, 18, "c")) + "\n")
    with pytest.raises(SystemExit, match="has not ended"):
        script.searches(tmp_path)


def test_the_last_round_decides_where_it_has_ended(tmp_path, monkeypatch):
    """Of plans of at most the budget; before, and for smaller budgets, the round before does."""
    search = script.search_samplers
    monkeypatch.setattr(search, "GOOD", dict.fromkeys(script.FAMILIES, ()))
    monkeypatch.setattr(search, "BEST", 1)
    digest = search.Plan.build(steps=9).digest
    again = [
        searched(family, nfe, None, fd, nfe, plan)
        for family in script.FAMILIES
        for nfe, fd, plan in ((12, 0.5, "small"), (27, 0.4, digest))
    ]
    last = [searched(family, 27, None, 0.9, 27, digest, search.LAST_SEED) for family in script.FAMILIES]

    def chosen(rows):
        (tmp_path / "families.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        found = script.winners(tmp_path)
        return [(found["sde", budget]["plan"], found["sde", budget]["fd"]) for budget in (12, 27)]

    assert chosen([*again, *last[1:]]) == [("small", 0.5), (digest, 0.4)]
    assert chosen([*again, *last]) == [("small", 0.5), (digest, 0.9)]


def test_the_committed_rows_are_those_of_the_search():
    """Every cell was chosen by the committed search, and no extractor is missing for a block of seeds."""
    rows = [one for one in read(BENCHMARKS / "results" / "comparison.jsonl") if one["family"] != "data"]
    script.searches(BENCHMARKS / "results" / "search")
    chosen = script.winners(BENCHMARKS / "results" / "search")
    measured = {
        (one["family"], one["budget"]): one["plan"] for one in rows
    }  # as far as it went, smallest budgets first
    assert measured
    assert measured.items() <= {cell: one["plan"] for cell, one in chosen.items()}.items()
    blocks = collections.Counter((one["family"], one["budget"], one["first_seed"]) for one in rows)
    assert set(blocks.values()) == {4}


def test_the_report_shows_the_comparison_and_says_what_it_says():
    """The claim of other rows is left out there: two claims on one question would be one too many."""
    for library in ("jinja2", "plotly", "matplotlib"):
        pytest.importorskip(library)
    from restart_sampling.experiments.report import make_page

    rows = cells("restart", 20, [1.0, 1.1, 1.0]) + cells("sde", 20, [2.0, 2.2, 2.1])
    page = make_page(rows)
    assert "The best of each family" in page
    assert "the best SDE of as many evaluations wins at 20" in page
    assert "data:image/png;base64" in page
    assert "No claim is made" not in page


def test_cells_of_two_blocks_are_said_to_have_too_few():
    """And nothing is said to be missing where it was only not measured yet."""
    both = cells("restart", 5, [9.0, 9.1, 9.0]) + cells("sde", 5, [2.0, 2.2, 2.1])
    found = made(both, cells("restart", 20, [1.0, 1.1]), cells("sde", 20, [1.5, 1.6]))
    said = " ".join(comparison.sentences(found))
    assert "loses at 5, has too few blocks at 20" in said
    assert "No Restart plan that shares 3 blocks of seeds with it passes" in said


def test_several_extractors_may_have_chosen_the_plans():
    """All of them are shown, none of them has a say."""
    both = cells("restart", 20, [1.0, 1.1, 1.0], tuned_on="two, tuner")
    found = made(both, cells("sde", 20, [2.0, 2.2, 2.1], tuned_on="two, tuner"))
    assert (found.held_out, found.tuned_on) == (("one",), ("two", "tuner"))
    assert list(found.against(20, "sde")) == ["one", "two", "tuner"]


def test_the_best_sde_is_chosen_on_blocks_that_all_of_them_have():
    """More blocks of easy seeds make no plan better."""
    found = made(cells("restart", 20, [1.0, 1.0]), cells("sde", 5, [3.0, 3.0, 0.0, 0.0]), cells("sde", 20, [2.0, 2.5]))
    assert found.best_sde("one").budget == 20
