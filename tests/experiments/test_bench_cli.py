"""`restart-sampling bench` as a person types it."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
from support.commands import run

import restart_sampling as rs
from restart_sampling.cli.app import bench as command
from restart_sampling.experiments.measure import against, rows, samplers, speed, timing

NAMES = [c.name for c in samplers.candidates() if not c.name.startswith("preset:")]
TINY = ["--nfe", "3", "--batch", "2", "--rounds", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def one_thread():
    with timing.threads(1):
        yield


@pytest.fixture
def quality(monkeypatch):
    """Stands in for the quality side: records what it is asked for, gives one row each."""
    asked = {}

    def measure(denoiser, model, work, **options):
        asked.update(options, model=model, work=[(candidate.name, nfe) for candidate, nfe in work])
        found = []
        for candidate, nfe in work:
            row = {"sampler": candidate.name, "nfe": nfe}
            for fd in (12.0, 13.0):
                balanced = {"fd_balanced": fd - 2} if nfe == 9 or not asked.get("mixed") else {}
                found.append({**row, **balanced, "kind": "quality", "features": "f", "fd": fd, "n": options["n"] // 2})
            found.append(
                {
                    **row,
                    "kind": "pooled",
                    "features": "f",
                    "fd": 8.25,
                    "fd_balanced": 8.125,
                    "n": options["n"],
                    "blocks": 2,
                }
            )
        return found

    def evaluators_for(model, features=None, reference=None, shape=None):
        asked.update(features=features, reference=reference)
        return [types.SimpleNamespace(note="")]

    for name, content in (("quality", {"measure": measure}), ("evaluator", {"evaluators_for": evaluators_for})):
        module = types.ModuleType(f"restart_sampling.experiments.measure.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


def test_speed_of_a_few_samplers(tmp_path, capsys):
    arguments = ["bench", "--samplers", "heun, euler", *TINY, "--out", str(tmp_path / "rows")]
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    found = rows.read(tmp_path / "rows" / "speed.jsonl")
    assert [(row["sampler"], row["nfe"], row["model"]) for row in found] == [
        (n, 3, "fashion-mnist") for n in ("euler", "heun")
    ]
    assert all(len(row["model_sha256"]) == 12 and row["threads"] == 1 for row in found)
    assert "heun" in out
    assert f"{found[1]['samples_per_s']:.4g}" in out
    assert "at most 3 evaluations" in err
    run(capsys, *arguments)
    assert len(rows.read(tmp_path / "rows" / "speed.jsonl")) == 4  # speed is always measured anew


def test_quality_gets_what_was_asked(tmp_path, capsys, quality):
    what = ("--samplers", "heun,heun+restart", "--nfe", "9,18", "--rounds", 0, "--features", "f:g")
    seeds = ("--n", 50, "--block", 20, "--first-seed", 7, "--batch", 5)
    code, out, err = run(capsys, "bench", *what, *seeds, "--out", tmp_path, "--cache", tmp_path / "c")
    assert code == 0, err
    assert quality["work"] == [("heun", 9), ("heun+restart", 9), ("heun", 18), ("heun+restart", 18)]
    assert (quality["n"], quality["block"], quality["first_seed"], quality["batch"]) == (50, 20, 7, 5)
    assert (quality["out"], quality["cache"]) == (tmp_path, tmp_path / "c")
    assert (quality["features"], len(quality["evaluator"]), quality["dtype"]) == ("f:g", 1, "fp32")
    lines = [line for line in out.splitlines() if "heun" in line]
    assert len(lines) == 4  # mean and standard deviation of 10 and 11, and the distance of all together
    assert all(re.search(r"10\.5 ± 0\.71 .* 2 × 25 .* 8\.125 ", line) for line in lines)
    assert "FD, equal classes" in out and "samples/s" not in out
    assert not (tmp_path / "speed.jsonl").exists()


def test_one_row_without_equal_classes_and_the_table_is_of_fd(tmp_path, capsys, quality):
    quality["mixed"] = True
    arguments = ["--samplers", "heun", "--nfe", "9,18", "--rounds", "0", "--n", "50", "--block", "25"]
    code, out, _ = run(capsys, "bench", *arguments, "--out", str(tmp_path))
    assert code == 0 and "equal classes" not in out
    assert out.count("12.5 ± 0.71") == 2 and out.count("8.25") == 2


def test_quick_covers_every_sampler(tmp_path, capsys, quality, monkeypatch):
    asked = {}

    def measure(denoiser, model, work, **options):
        asked.update(options, work=work)
        return []

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "bench", "--quick", "--device", "cpu")
    assert code == 0, err
    assert {candidate.name for candidate, _ in asked["work"]} == set(NAMES)
    assert (asked["rounds"], asked["batch"], str(asked["out"])) == (2, 4, "bench-quick")
    assert (quality["n"], quality["work"]) == (40, [("heun+restart", 10)])  # at 9, SEEDS-3 with Restart does not fit


def test_mistakes_are_one_line(tmp_path, capsys):
    for arguments, said in (
        (["--nfe", "9,x"], "--nfe must be numbers"),
        (["--nfe", "0"], "--nfe must be numbers"),
        (["--samplers", "huen"], "did you mean 'heun'"),
        (["--batch", "0"], "--batch must be ≥ 1"),
        (["--n", "-1"], "--n must be ≥ 0"),
        (["--n", "1"], "leaves 1 for it; try --n 2"),
        (["--n", "41", "--block", "20"], "leaves 1 for the last block; try --n 40"),
        (["--block", "1", "--n", "20"], "--block must be ≥ 2"),
        (["--rounds", "0"], "measures nothing; give --rounds for speed, --n for quality"),
        (["--n", "20", "--reference", "nowhere.npz"], "nowhere.npz"),
        (["--restart", "[3, 1]"], "t_min, t_max missing"),
        (["--model", "nowhere.safetensors"], "no model file"),
        (["--against", "HEAD", "--samplers", "torch"], "engine"),
        (["--against", "no-such-revision", "--samplers", "heun"], "--against"),
    ):
        code, _, err = run(capsys, "bench", *arguments, "--out", str(tmp_path))
        assert code == 2, arguments
        assert said in err, arguments
        assert err.strip().count("\n") == 0, err
    assert list(tmp_path.iterdir()) == []


def test_quick_measures_the_speed_of_a_model_without_a_reference(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "measure", lambda *arguments, **options: [])
    model = Path(rs.__file__).parent / "models" / "data" / "fashion-mnist.safetensors"
    code, _, err = run(capsys, "bench", "--quick", "--model", str(model), "--out", str(tmp_path))
    assert "quality is left out" in err and "needs --features" in err
    assert code == 1 and "nothing was measured" in err


def test_nothing_that_fits_is_exit_code_1(tmp_path, capsys):
    code, _, err = run(capsys, "bench", "--samplers", "heun+restart", *TINY, "--out", str(tmp_path))
    assert code == 1
    assert "no configuration fits" in err


def test_ctrl_c_keeps_the_rows(tmp_path, capsys, monkeypatch):
    def stopped(*arguments, out, **options):
        rows.append(out / "speed.jsonl", {"kind": "speed"})
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "measure", stopped)
    code, _, err = run(capsys, "bench", *TINY, "--out", str(tmp_path))
    assert code == 130
    assert "rows written so far" in err
    assert rows.read(tmp_path / "speed.jsonl") == [{"kind": "speed"}]


def test_against_prints_ratios_and_keeps_them(tmp_path, capsys, monkeypatch):
    asked = {}

    def measure(revision, model, plans, **options):
        asked.update(options, revision=revision, plans=plans)
        return [
            {
                "kind": "against",
                "sampler": name,
                "nfe": plan.nfe,
                "seconds": 2.0,
                "seconds_old": 3.0,
                "ratio": 1.5,
                "ratio_q1": 1.4,
                "ratio_q3": 1.6,
            }
            for name, plan in plans
        ]

    monkeypatch.setattr(against, "measure", measure)
    what = ("--against", "v1", "--samplers", "heun,heun+*,torch", "--nfe", "9,10", "--rounds", 3)
    code, out, err = run(capsys, "bench", *what, "--out", tmp_path)
    assert code == 0, err
    assert [(name, plan.nfe) for name, plan in asked["plans"]] == [("heun", 9), ("heun+restart", 9)]  # 10 buys no more
    assert (asked["revision"], asked["rounds"]) == ("v1", 3)
    assert "1.500" in out
    assert [row["ratio"] for row in rows.read(tmp_path / "against.jsonl")] == [1.5, 1.5]


def test_help_is_fast_to_import():
    """The command's file itself imports neither torch nor the measuring code."""
    names = vars(command) if isinstance(command, types.ModuleType) else vars(sys.modules["restart_sampling.cli.bench"])
    assert "torch" not in names
    assert "speed" not in names
