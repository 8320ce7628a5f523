"""`restart-sampling bench --conditions`: ensembles of every sampler from the same seeds, and their rows in a report."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch
from support.commands import run

import restart_sampling as rs
from restart_sampling.common.errors import RestartValueError
from restart_sampling.experiments.measure import rows, samplers
from restart_sampling.experiments.measure.ensembles import EnsembleScorer
from restart_sampling.experiments.measure.ensembles.measure import measure
from restart_sampling.experiments.measure.ensembles.reference import open_reference
from restart_sampling.experiments.report import export, make_page
from restart_sampling.jobs.inputs.inputs import Inputs

pytest.importorskip("scoringrules")
pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE, WIDTH = (2, 6), 0.5


def D(x, sigma, low):
    """Data N(low, 0.5²), by a denoiser that is exact."""
    variance = sigma.view(-1, 1, 1) ** 2
    return (WIDTH**2 * x + variance * low) / (WIDTH**2 + variance)


MODEL = rs.Denoiser.from_function(D, SHAPE, conditions={"low": rs.Condition(SHAPE)})


@pytest.fixture
def given(tmp_path):
    """Files of conditions and truths, 7 inputs."""
    rng = np.random.default_rng(0)
    low = rng.normal(size=(7, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "low.npy", low)
    np.save(tmp_path / "truth.npy", low + WIDTH * rng.normal(size=low.shape).astype(np.float32))
    return tmp_path


def measured(given, *names, batch=5, budget=9, members=4, **options):
    inputs = Inputs.read(MODEL, conditions=given / "low.npy", per_input=members, first_seed=10)
    work = samplers.work(names, [budget])
    truths = open_reference(given / "truth.npy")
    return measure(MODEL, "mine", work, inputs=inputs, truths=truths, out=given / "rows", batch=batch, **options)


def test_rows_are_the_scores_of_the_same_seeds(given):
    """Batches of 5 and inputs of 4 members: a batch holds members of several inputs."""
    found = measured(given, "heun", "euler-ancestral")
    low, truth = (np.load(given / f"{name}.npy") for name in ("low", "truth"))
    for row in found:
        plan, scorer = rs.Plan.build(**row["config"]), EnsembleScorer()
        for i in range(7):
            seeds = range(10 + 4 * i, 14 + 4 * i)
            scorer.add(rs.sample(MODEL, plan, seeds, conditions={"low": torch.from_numpy(low[i])}), truth[i])
        wanted = scorer.result().row()
        for name in ("crps", "crps_fair", "spread", "rmse", "spread_skill", "crps_fair_error"):
            assert row[name] == pytest.approx(wanted[name], rel=1e-5), name
        assert (row["kind"], row["n"], row["inputs"], row["members"]) == ("ensemble", 28, 7, 4)
        assert row["nfe"] == plan.nfe <= 9 and sum(row["ranks"]) == 7 * 12
    assert sorted(row["sampler"] for row in found) == ["euler-ancestral", "heun"]


def test_what_is_measured_is_not_measured_again(given):
    (first,), told = measured(given, "heun"), []
    again = {row["sampler"]: row for row in measured(given, "heun", "euler", progress=told.append)}
    assert again["heun"]["crps"] == first["crps"] and set(again) == {"heun", "euler"}
    assert len(rows.read(given / "rows" / "ensembles.jsonl")) == 2 and len(told) == 1
    measured(given, "heun", members=5)
    truth = np.load(given / "truth.npy")
    np.save(given / "truth.npy", truth + 1)
    measured(given, "heun")
    assert len(rows.read(given / "rows" / "ensembles.jsonl")) == 4


def test_samplers_that_are_told_classes_alone_are_left_out(given):
    told = []
    assert measured(given, "torch/heun-fp64", budget=35, progress=told.append) == []
    assert told == ["torch/heun-fp64: left out, since it can be told classes alone"]


def test_a_sampler_that_diverges_is_named_and_the_others_are_scored(given):
    def bad(x, sigma, low):
        return D(x, sigma, low) * torch.where(sigma.view(-1, 1, 1) < 0.01, float("nan"), 1.0)

    broken = rs.Denoiser.from_function(bad, SHAPE, conditions={"low": rs.Condition(SHAPE)})
    inputs, told = Inputs.read(broken, conditions=given / "low.npy", per_input=2), []
    truths, work = open_reference(given / "truth.npy"), samplers.work(["heun"], [9])
    assert measure(broken, "b", work, inputs=inputs, truths=truths, out=given, progress=told.append) == []
    assert "heun, 9 NFE: not scored" in told[0]


def test_truths_of_other_inputs_are_refused_before_anything_is_drawn(given):
    np.save(given / "truth.npy", np.load(given / "truth.npy")[:5])
    with pytest.raises(RestartValueError, match=r"has truths of 5 inputs, and .*low.npy has conditions of 7"):
        measured(given, "heun")


@pytest.fixture
def classes(tmp_path):
    """Conditions of the bundled model: 3 classes, as rows; and images of its kind."""
    np.save(tmp_path / "classes.npy", np.eye(10, dtype=np.float32)[[0, 1, 7]])
    np.save(tmp_path / "images.npy", np.zeros((3, 1, 28, 28), np.float32))
    return tmp_path


def test_the_command_and_its_report(classes, capsys):
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    flags = ("--conditions", classes / "classes.npy", "--members", 2, "--reference", classes / "images.npy")
    sampler = ("--samplers", "euler,heun", "--nfe", 3, "--device", "cpu", "--batch", 6, "--out", classes / "rows")
    code, out, err = run(capsys, "bench", *flags, *sampler)
    assert code == 0, err
    assert "3 inputs, 2 members of each" in " ".join(out.split()) and "CRPS, fair" in out
    found = rows.read(classes / "rows" / "ensembles.jsonl")
    assert sorted(row["sampler"] for row in found) == ["euler", "heun"]
    assert found[0]["first_seed"] == 1_000_000 and found[0]["conditions"].startswith("classes.npy ")
    page = make_page(found)
    assert 'id="ensembles"' in page and "spread / skill" in page and "3 inputs, 2 members of each" in page
    lines = list(csv.DictReader(io.StringIO(export.csv_text(found))))
    assert [(line["point"], line["crps_fair"]) for line in lines] == [
        ("ensemble", str(row["crps_fair"])) for row in found
    ]
    odd = make_page([{**found[0], "crps_fair": "much"}, {**found[1], "members": -1}, found[1]])
    for name in ("crps_fair", "members"):
        assert f"1 row left out: kind ensemble without a usable {name}." in odd


def test_mistakes_are_one_line(classes, capsys):
    files = ("--conditions", classes / "classes.npy", "--reference", classes / "images.npy")
    for arguments, message in (
        (("--members", 4), "--members is of the inputs in --conditions"),
        (files[:2], "--conditions needs --reference FILE"),
        ((*files, "--members", 1), "--members must be ≥ 2, got 1"),
        ((*files, "--n", 50), "--n does not go with --conditions"),
        ((*files, "--features", "all"), "--features does not go with --conditions"),
        ((*files, "--quick"), "--quick does not go with --conditions"),
        (("--conditions", classes / "none.npy", *files[2:]), "there is no file of conditions"),
    ):
        code, out, err = run(capsys, "bench", *arguments, "--device", "cpu", "--out", classes / "rows")
        assert (code, out) == (2, ""), arguments
        assert message in " ".join(err.split()), (arguments, err)
