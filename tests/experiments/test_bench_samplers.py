"""Candidates: each draws what it says, with the network calls it says, on data whose answer is known in closed form."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from support import problems
from support.children import python
from support.edm_denoisers import SHAPE, denoiser

import restart_sampling as rs
from restart_sampling.common.errors import BackendError, ConfigError, OutputError, RestartValueError
from restart_sampling.experiments.measure import engine, libraries, rows, samplers, timing
from restart_sampling.solvers import SOLVERS

EVERYONE = [c for c in samplers.candidates() if not c.name.startswith("preset:")]
NAMES = [c.name for c in EVERYONE]
ODE = [c.name for c in EVERYONE if c.family == "ode"]
# Steps of consistency models: their noise is not that of an SDE, so exact data does not come out with its variance.
CONSISTENCY = ("lcm", "tcd")
NOISY = [c.name for c in EVERYONE if c.family != "ode" and c.name.removesuffix("+restart") not in CONSISTENCY]
FIRST_ORDER = {name for name, solver in SOLVERS.items() if solver.order == 1} | {
    "diffusers/edm-euler",
    "diffusers/ddim",
}


@pytest.fixture(autouse=True)
def one_thread():
    with timing.threads(1):
        yield


def exact_mixture(seeds):
    """The probability-flow ODE dx/dσ = (x − D)/σ of the mixture from 80·ε(seed, 0) on, by scipy in float64."""
    D = problems.mixture(SHAPE)
    start = 80.0 * rs.noise.normal(seeds, 0, SHAPE).double()

    def slope(log_sigma, flat):
        x = torch.from_numpy(flat).view(len(seeds), *SHAPE)
        return (x - D(x, torch.full((len(seeds),), np.exp(log_sigma), dtype=torch.float64))).numpy().ravel()

    span = (np.log(80.0), np.log(1e-4))  # in ln σ: dx/d ln σ = x − D
    found = solve_ivp(slope, span, start.numpy().ravel(), rtol=1e-8, atol=1e-9)
    return torch.from_numpy(found.y[:, -1]).view(len(seeds), *SHAPE)


@pytest.mark.parametrize("name", NAMES)
def test_network_calls_are_the_stated_nfe_and_the_most_that_fits(name):
    candidate = samplers.find(name)
    den = denoiser(problems.gaussian())
    budgets = range(1, 19)
    made = {budget: candidate.runner(den, budget, batch_size=3) for budget in budgets}
    stated = {budget: 0 if runner is None else runner.nfe for budget, runner in made.items()}
    assert all(nfe <= budget for budget, nfe in stated.items())
    assert list(stated.values()) == sorted(stated.values())
    assert stated[18] >= 15
    # what is stated at one budget is what a budget of just that many gives, and one more never gives less
    assert all(stated[nfe] == nfe for nfe in stated.values() if nfe)
    runner = made[18]
    den.network.calls = 0
    runner.draw(range(3))
    assert den.network.calls == runner.nfe
    runner.draw(range(5))  # two batches
    assert den.network.calls == 3 * runner.nfe


@pytest.mark.parametrize("name", ODE)
def test_ode_samplers_approach_the_exact_solution(name):
    """Errors on a mixture against scipy; a first-order sampler at least halves its error from 18 to 63 evaluations."""
    seeds = range(8)
    truth = exact_mixture(seeds)
    den = denoiser(problems.mixture(SHAPE))
    errors = []
    each = (
        SOLVERS[name].evaluations if name in FIRST_ORDER & set(SOLVERS) else 1
    )  # Heun++ is Euler at three times the cost
    for nfe in (18, 63, 255):
        x, labels = samplers.find(name).runner(den, each * nfe).draw(seeds)
        assert x.dtype == torch.float32
        assert labels is None
        errors.append(float((x.double() - truth).pow(2).mean().sqrt()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < (0.05 if name in FIRST_ORDER else 2e-3)


@pytest.mark.parametrize("name", ["torch/heun-fp64", "torch/heun-fp32"])
def test_plain_loops_draw_what_the_engine_draws(name):
    """Heun has no noise but the latents: from draw 0 of the seed the plain loop ends where the engine's plan ends.

    For Gaussian data the solution from 80·ε to 0 is x·√(c²/(c² + 80²)).
    """
    den = denoiser(problems.gaussian())
    x, _ = samplers.find(name).runner(den, 255, batch_size=6).draw(range(6))
    truth = problems.gaussian_flow(80.0 * rs.noise.normal(range(6), 0, SHAPE).double(), 80.0, 0.0)
    assert float((x - truth).abs().max()) < 0.01
    engine_x, _ = samplers.find("heun").runner(den, 255, batch_size=6).draw(range(6))
    assert float((x - engine_x).abs().max()) < 1e-4


@pytest.mark.parametrize("name", [c.name for c in EVERYONE if c.by == "torch"])
def test_plain_loops_begin_from_draw_0_of_the_seed(name):
    """The first thing the network is asked: 80 times the engine's latents, since there is no churn at the top of the
    grid.
    """
    asked = []

    def D(x, sigma):
        asked.append(x.clone())
        return problems.gaussian()(x, sigma)

    runner = samplers.find(name).runner(denoiser(D), 18, batch_size=3)
    runner.draw([5, 1, 8])
    latents = 80.0 * rs.noise.normal([5, 1, 8], 0, SHAPE).double()
    assert torch.allclose(asked[0].double(), latents, rtol=1e-5, atol=1e-5)


def test_rows_of_loops_with_other_latents_are_known_by_their_key():
    runner = samplers.find("torch/heun-fp64").runner(denoiser(problems.gaussian()), 35)
    assert not rows.other_latents({"by": "torch", "key": runner.key})
    assert rows.other_latents({"by": "torch", "key": "torch-heun-fp64-e4bdd3bf1820-fp32"})
    assert not rows.other_latents({"by": "engine", "key": "e4bdd3bf1820-fp32"})


@pytest.mark.parametrize("name", NOISY)
def test_stochastic_samplers_draw_gaussian_data_with_its_variance(name):
    # Nine points in the interval: the rule has three and 13 repeats at this budget, and every repeat adds the error of
    # its steps (ddpm: std 0.38, with nine points 0.46, with 21 points 0.49).
    restart = [9, 2, 0.06, 0.30] if samplers.find(name).family == "restart" else None
    runner = samplers.find(name).runner(denoiser(problems.gaussian(0.5)), 127, batch_size=1000, restart=restart)
    x, _ = runner.draw(range(1000))
    std = float(x.double().std())  # of 16,000 numbers: known to 0.6 %
    first = name.removesuffix("+restart") in FIRST_ORDER
    tolerance = 0.05 if first and restart else 0.02 if restart else 0.035  # ancestral steps are of first order
    assert abs(std - 0.5) < tolerance
    assert abs(float(x.double().mean())) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_draws_depend_on_the_seed_alone(name):
    """But for Restart in k-diffusion's manner, whose noise is drawn for the batch: that is in its key."""
    candidate, den = samplers.find(name), denoiser(problems.mixture(SHAPE))
    together = candidate.runner(den, 18, batch_size=5)
    apart = candidate.runner(den, 18, batch_size=2)
    x, y = together.draw(range(5))[0], apart.draw(range(5))[0]
    if name == "torch/restart-fp32":
        assert together.key != apart.key
        assert not torch.allclose(x[2:4], y[2:4], atol=0.1)
        assert torch.equal(apart.draw(range(5))[0], y)
    else:
        assert together.key == apart.key
        assert torch.allclose(x, y, atol=2e-4)
        assert torch.allclose(together.draw([3, 1])[0], x[[3, 1]], atol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_classes_reach_the_network(name):
    """A network whose D is 100 times the class draws it; without labels the seed's own class is taken and returned."""
    den = denoiser(lambda x, sigma: 0 * x, label_dim=7, labels_matter=True)
    runner = samplers.find(name).runner(den, 18, batch_size=4)
    x, labels = runner.draw(range(6))
    assert torch.equal(labels, rs.noise.class_labels(range(6), 7))
    assert torch.allclose(x.mean((1, 2, 3)).round(), 100.0 * labels)
    x, labels = runner.draw(range(3), torch.tensor([6, 0, 2]))
    assert labels.tolist() == [6, 0, 2]
    assert torch.allclose(x.mean((1, 2, 3)).round(), 100.0 * labels)
    _, labels = runner.draw(range(2), 5)
    assert labels.tolist() == [5, 5]


def test_keys_name_what_is_drawn():
    den = denoiser(problems.gaussian())
    keys = [c.runner(den, 35).key for c in EVERYONE]
    assert len(set(keys)) == len(keys)
    plan = rs.Plan.build(steps=18)
    assert samplers.find("heun").runner(den, 35).key == f"{plan.digest}-fp32"
    assert samplers.find("heun").runner(den, 36).key == f"{plan.digest}-fp32"
    assert samplers.find("diffusers/heun").runner(den, 36).key == "diffusers-heun-35-fp32"
    assert samplers.find("heun").runner(den, 35, dtype="bf16").key == f"{plan.digest}-bf16"


def test_the_rule_of_restart():
    """At 43 evaluations with Heun it gives the paper's shape, and it never leaves out what could be used."""
    assert engine.plan_for("heun", 43, jumping=True) == rs.preset("cifar10-vp-43")
    for nfe in range(7, 130):
        plan = engine.plan_for("heun", nfe, jumping=True)
        assert plan.nfe == (nfe if nfe % 2 else nfe - 1)  # 2·steps − 1 + 4·K is odd
        (interval,) = plan.intervals
        assert interval.K >= 1
        if nfe >= 43:
            assert abs((2 * plan.config.steps - 1) / plan.nfe - engine.MAIN_SHARE) < 0.06
    assert engine.plan_for("heun", 6, jumping=True) is None
    assert samplers.find("heun+restart").runner(denoiser(problems.gaussian()), 6) is None


def test_an_interval_of_ones_own():
    den = denoiser(problems.gaussian())
    for name in ("heun+restart", "torch/restart-fp64"):
        runner = samplers.find(name).runner(den, 63, restart="[4, 2, 0.14, 0.30]")
        assert runner.nfe == 63
        plan = runner.plan or runner.recipe
        assert [(i.N, i.K, i.asked.t_min, i.asked.t_max) for i in plan.intervals] == [(4, 2, 0.14, 0.30)]
        same = samplers.find(name).with_restart("[4, 2, 0.14, 0.30]").runner(den, 63)
        assert same.key == runner.key
    assert engine.plan_of(samplers.find("heun+restart"), 63, "[4, 2, 0.14, 0.30]").config.steps == 26
    with pytest.raises(ConfigError, match="has no Restart interval"):
        samplers.find("heun").runner(den, 63, restart="[4, 2, 0.14, 0.30]")
    heun = samplers.find("heun")
    assert heun.with_restart("[4, 2, 0.14, 0.30]") is heun


def test_presets_are_candidates():
    den = denoiser(problems.gaussian())
    candidate = samplers.find("preset:cifar10-edm-43")
    assert (candidate.family, candidate.by) == ("restart", "engine")
    assert candidate.runner(den, 42) is None
    runner = candidate.runner(den, 50)
    assert runner.nfe == 43
    assert runner.plan == rs.preset("cifar10-edm-43")
    assert samplers.find("preset:cifar10-edm-sde-35").family == "sde"
    assert {f"preset:{p.name}" for p in rs.presets() if not p.group} == {c.name for c in samplers.select("presets")}
    of_edm2 = {f"preset:{p.name}" for p in rs.presets() if p.group}
    assert {c.name for c in samplers.select("preset:edm2-*")} == of_edm2
    assert engine.plan_of(candidate, 43) == runner.plan


def test_names_groups_and_globs():
    assert {c.name for c in samplers.select("all")} == set(NAMES)
    assert {c.by for c in samplers.select("torch")} == {"torch"}
    assert {c.family for c in samplers.select("sde")} == {"sde"}
    assert [c.name for c in samplers.select("heun*")] == ["heun", "heunpp2", "heun+restart", "heunpp2+restart"]
    assert [c.name for c in samplers.select("dpm++2m", "heun", "heun+*")] == ["heun", "dpm++2m", "heun+restart"]
    assert len(samplers.select("preset:imagenet64-edm-*")) > 10
    assert len(set(NAMES)) == len(NAMES)
    with pytest.raises(ConfigError, match=r"'huen' is not known; did you mean 'heun'"):
        samplers.find("huen")
    with pytest.raises(ConfigError, match=r"globs such as 'heun\*' or groups \(all, .*\); did you mean .*heun.*\?$"):
        samplers.select("huen")
    with pytest.raises(ConfigError, match=r"glob.*group"):
        samplers.select("all", "xyzzy")
    with pytest.raises(RestartValueError, match="nfe must be"):
        samplers.find("heun").runner(denoiser(problems.gaussian()), 0)


def test_a_name_may_have_a_budget_of_its_own():
    def named(*names, budgets=(9, 18)):
        return [(candidate.name, nfe) for candidate, nfe in samplers.work(names, budgets)]

    assert named("heun", "euler@35", "heun@18") == [("heun", 9), ("heun", 18), ("euler", 35)]
    assert named("euler@35", "dpm*@9", "preset:cifar10-edm-43@43", budgets=()) == [
        *((c.name, 9) for c in samplers.select("dpm*")),
        ("euler", 35),
        ("preset:cifar10-edm-43", 43),
    ]
    for bad in ("heun@", "heun@x", "heun@0", "@9"):
        with pytest.raises(ConfigError, match=r"heun@35|not known"):
            named(bad)


def test_betas_give_their_levels_back():
    levels = np.geomspace(80.0, 0.002, 50)
    alphas_cumprod = np.cumprod(1 - np.array(libraries.betas(levels), dtype=np.float32))
    assert np.allclose(np.sqrt(1 / alphas_cumprod - 1), levels[::-1], rtol=0.01)


def test_only_networks_with_edm_preconditioning_meet_other_makers():
    plain = rs.Denoiser.from_function(problems.gaussian(), shape=SHAPE)
    for name in ("torch/heun-fp64", "diffusers/heun"):
        with pytest.raises(RestartValueError, match="not 'edm'"):
            samplers.find(name).runner(plain, 9)
    assert samplers.find("heun").runner(plain, 9).nfe == 9


def test_a_missing_library_is_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(BackendError, match=r"restart-sampling\[bench\]"):
        samplers.find("diffusers/ddim").runner(denoiser(problems.gaussian()), 9)


def test_the_registry_imports_no_library():
    script = (
        "import sys; from restart_sampling.experiments.measure import samplers; samplers.candidates(); "
        "libraries = ('diffusers', 'optuna', 'plotly', 'torchmetrics', 'sklearn', 'torchvision'); "
        "print([m for m in libraries if m in sys.modules])"
    )
    done = python("-c", script, env=_environment())
    assert done.stdout.strip() == "[]"


def _environment():
    import os

    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(str(root / folder) for folder in ("engine", "kernels", "bindings"))
    return {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": paths}


def test_rows_are_written_whole_and_read_back(tmp_path):
    path = tmp_path / "new" / "speed.jsonl"
    rows.append(
        path, {"kind": "speed", "fd": float("nan"), "most": float("inf"), "config": {"s_max": float("inf")}, "n": 3}
    )
    rows.append(path, {"kind": "quality", "text": "σ\n<b>"})
    first, second = rows.read(path)
    assert first == {"kind": "speed", "fd": None, "most": "inf", "config": {"s_max": "inf"}, "n": 3}
    assert second["text"] == "σ\n<b>"
    assert path.read_bytes().count(b"\n") == 2
    (path.parent / "quality.jsonl").write_text('{"kind": "quality", "n": 1}\n')
    assert [row.get("n") for row in rows.read_all(path.parent)] == [1, 3, None]
    assert rows.read(tmp_path / "none.jsonl") == []
    with pytest.raises(OutputError, match="there is no folder"):
        rows.read_all(tmp_path / "none")


@pytest.mark.filterwarnings("ignore:.* is not a row")
def test_a_torn_line_costs_itself_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    rows.append(path, {"n": 1})
    whole = path.read_bytes()
    rows.append(path, {"config": {"a": {"b": [1, "}"]}}, "n": 2, "text": "ü}"})
    torn = path.read_bytes()
    for end in range(len(whole) + 1, len(torn)):  # stopped anywhere inside the second row
        path.write_bytes(torn[:end])
        whole_rows = [row["n"] for row in rows.read(path)]
        assert whole_rows in ([1], [1, 2]), end
        rows.append(path, {"n": 3})
        assert [row["n"] for row in rows.read(path)] == [*whole_rows, 3], end


@pytest.mark.parametrize("line", ["[1]", "hello", '{"n": }', '{"n": 2', '{"n": 2}{"n": 2}'])
def test_a_line_that_is_no_row_is_skipped_with_a_warning_that_says_where(line, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"n": 1}}\n{line}\n{{"n": 3}}\n')
    with pytest.warns(UserWarning, match=r"a\.jsonl, line 2 is not a row"):
        assert [row["n"] for row in rows.read(path)] == [1, 3]


def test_find_and_same():
    found = [{"sampler": "heun", "nfe": 9}, {"sampler": "heun", "nfe": 18}, {"sampler": "euler", "nfe": 9, "n": None}]
    assert rows.find(found, sampler="heun", nfe=18) == [found[1]]
    assert rows.find(found, nfe=9) == [found[0], found[2]]
    assert rows.same(found[0], found[2], ("nfe", "n"))
    assert not rows.same(found[0], found[1], ("sampler", "nfe"))


def test_a_row_says_where_it_was_measured():
    here = rows.environment()
    assert set(here) == {"device", "threads", "torch", "python", "restart_sampling", "git"}
    assert here["threads"] == 1
    assert here["torch"] == torch.__version__
    assert here["device"]
