"""Searches under guidance: every plan has it, those that a plan is compared with too, and a guide is called."""

from __future__ import annotations

import shlex

import pytest
from support import commands, edm2_golden

import restart_sampling as rs
from restart_sampling.experiments.measure import rows
from restart_sampling.experiments.tune import confirm, space, starts, study
from restart_sampling.experiments.tune.objective import Value
from restart_sampling.experiments.tune.space import Space
from restart_sampling.models import save_safetensors

optuna = pytest.importorskip("optuna")
pytest.importorskip("plotly")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.usefixtures("one_thread")

GUIDANCE = (("guidance_scale", 1.7), ("guidance_interval", (0.3, 3.0)), ("guidance_interval_rounding", "grid"))
GUIDED = Space(solvers=("heun", "dpm++2m"), levels=1, max_nfe=63, guidance=GUIDANCE)


def guidance_of(plan):
    return {name: value for name, value in plan.config.to_dict().items() if "guidance" in name}


WANTED = guidance_of(rs.Plan.build(**dict(GUIDANCE)))


class Known:
    """Plans whose worth is their evaluations; remembers them."""

    def __init__(self):
        self.plans = []

    def bound(self, plan):
        return plan

    def key(self, plan):
        return plan.digest

    def value(self, plan, far=lambda first: False):
        self.plans.append(plan)
        return Value(4 / plan.nfe)

    def fresh(self, plan, first_seed, n):
        self.plans.append(plan)
        return 4 / plan.nfe


def test_every_plan_has_the_guidance(tmp_path):
    known, path = Known(), tmp_path / "tune.jsonl"
    found = study.open_study(tmp_path / "s.db", {"model_sha256": "abc", **GUIDED.to_dict()})
    begun = starts.starts(GUIDED, [20, 63], known.key)
    assert len(begun) > 3 and any(start.preset for start in begun)
    study.enqueue(found, begun, 4)
    study.search(found, GUIDED, known, 12)
    common = {"model": "m.pkl", "model_sha256": "", "dtype": "fp32", "n": 8, "first_seed": 0}
    common |= {"guide": "g.pkl", "guide_null": False}
    confirm.write_trials(found, common, path)
    made = confirm.confirm(found, GUIDED, known, [20, 63], common, path, n=8, first_seed=100)
    assert len(known.plans) > 12 and all(guidance_of(plan) == WANTED for plan in known.plans)
    written = rows.read(path)
    assert all(guidance_of(rs.Plan.build(**row["config"])) == WANTED for row in written)
    for row in made:
        words = shlex.split(row["command"])
        assert words[2:6] == ["--model", "m.pkl", "--guide", "g.pkl"] and "--guide-null" not in words
        assert words[words.index("--guidance-interval-rounding") + 1] == "grid"
        heun = rs.Plan.build(steps=(row["budget"] + 1) // 2, **dict(GUIDANCE))
        assert row["heun"] == heun.digest
    study.open_study(tmp_path / "s.db", {"model_sha256": "abc", **GUIDED.to_dict()})  # the same settings
    with pytest.raises(rs.ConfigError, match="was made with guidance = "):
        other = Space(solvers=("heun", "dpm++2m"), levels=1, max_nfe=63)
        study.open_study(tmp_path / "s.db", {"model_sha256": "abc", **other.to_dict()})
    known.plans.clear()
    again = confirm.confirm(found, GUIDED, known, [20, 63], common, path, n=8, first_seed=100)
    assert [row["plan"] for row in again] == [row["plan"] for row in made] and rows.read(path) == written
    assert known.plans == []  # what an earlier row has is not measured again


def test_points_are_plans_and_plans_are_points():
    plain = Space(solvers=("heun", "dpm++2m"), levels=1, max_nfe=63)
    plan = rs.Plan.build(steps=9, restart="[3, 2, 0.3, 1.0]")
    guided = space.with_guidance(plan, GUIDED)
    assert guidance_of(guided) == WANTED and space.with_guidance(plan, plain) is plan
    params = space.params_of(guided, GUIDED)
    assert params == space.params_of(plan, plain)
    again = space.build(space.options_of(params, GUIDED), GUIDED)
    assert again == space.with_guidance(space.build(space.options_of(params, plain), plain), GUIDED)
    assert space.params_of(plan, GUIDED) is None and space.params_of(guided, plain) is None
    for other in ({"guidance_scale": 2.0}, {"guidance": "apg"}, {"guidance_rescale": 0.5}):
        assert space.params_of(rs.Plan.build(**{**guided.config.to_dict(), **other}), GUIDED) is None


def test_settings_of_before_have_no_guidance():
    assert "guidance" not in Space().to_dict()


class Size:
    features, reference, balanced, note = "mean", "none", False, ""

    def fd(self, images):
        return float(images.double().mean())


@pytest.fixture
def tune(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("restart_sampling.experiments.measure.evaluator.evaluator_for", lambda *given: Size())
    files = tmp_path / "main.safetensors", tmp_path / "guide.safetensors"
    save_safetensors(files[0], edm2_golden.network(), {})
    save_safetensors(files[1], edm2_golden.network({"model_channels": 16, "label_dim": 0}, first=500), {})
    common = ["--budget", "7", "--max-nfe", "7", "--min-nfe", "3", "--n", "3", "--trials", "2", "--device", "cpu"]
    common += ["--out", tmp_path / "out", "--cache", tmp_path / "cache", "--model", files[0]]

    def call(*more, guide=True):
        return commands.run(capsys, "tune", *common, *(("--guide", files[1]) if guide else ()), *more)

    return call


def test_the_command(tune, tmp_path):
    code, out, err = tune("--guidance-scale", "1.5", "--guidance-interval", "0.1,inf")
    assert code == 0, err
    written = rows.read(tmp_path / "out" / "tune.jsonl")
    guide = str(tmp_path / "guide.safetensors")
    joint = rs.load(tmp_path / "main.safetensors", guide=guide).info["sha256"]
    for row in written:
        assert (row["guide"], row["guide_null"], row["model_sha256"]) == (guide, False, joint[:12])
        assert (row["config"]["guidance_scale"], row["config"]["guidance_interval"]) == (1.5, [0.1, None])
    assert f"--guide {guide} " in out and "--guidance-scale 1.5" in out
    assert tune("--guidance-scale", "1.5", "--guidance-interval", "0.1,inf")[:2] == (0, out)
    code, _, err = tune("--guidance-scale", "1.6", "--guidance-interval", "0.1,inf")
    assert code == 2 and "was made with guidance = " in err


@pytest.mark.parametrize(
    ("more", "guide", "reason"),
    [
        ((), True, "the guide would never be called"),
        (("--guidance-interval", "0.1,2"), True, "--guidance-interval was given without --guidance-scale"),
        (("--guidance-scale", "1.5"), False, "'class_labels' of 'main.safetensors' has none"),
        (("--guidance-scale", "-1"), True, "guidance_scale must be"),
    ],
)
def test_what_is_refused_before_anything_is_drawn(more, guide, reason, tune, tmp_path):
    code, _, err = tune(*more, guide=guide)
    assert code == 2 and reason in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
