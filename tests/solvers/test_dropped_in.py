"""A solver is a file and nothing else: the one of docs/adding-a-solver.md, dropped into a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from support.children import python

from restart_sampling.solvers import SOLVERS, get_solver
from restart_sampling.solvers.trace import Position, Solver, Tracer, X

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding-a-solver.md"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package with one file more, as an environment for commands."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "engine", folder / "engine", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    (folder / "engine" / "restart_sampling" / "solvers" / "ab2_log.py").write_text(code[1])
    paths = [folder / "engine", *(ROOT / name for name in ("kernels", "bindings", "tests", "benchmarks"))]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "COLUMNS": "250",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",  # so that one command compiles the copy, and not each
    }


def run(house, *words, cwd=None):
    done = python(*words, env=house, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cli(house, *words, cwd=None):
    return run(house, "-m", "restart_sampling", *words, cwd=cwd)


@pytest.mark.parametrize("command", ["plan", "generate", "profile"])
def test_it_is_in_the_help_of_commands(house, command):
    assert re.search(r"lcm, tcd, ab2-log, dpm-solver or er-sde", cli(house, command, "--help"))


def test_tune_searches_it_unless_told_otherwise(house):
    said = " ".join(re.sub(r"[│\s]+", " ", cli(house, "tune", "--help")).split())
    assert re.search(r"Default: heun, dpm2, [^.]*, ab2-log\b", said)


def test_it_makes_plans_with_restart(house):
    said = cli(house, "plan", "--solver", "ab2-log:weight=0.4", "--steps", "12", "--restart", "[3, 2, 0.06, 0.30]")
    assert "16 NFE · Adams–Bashforth 2 in ln σ" in said
    assert "options of ab2-log: weight 0.4" in said


DRAW = """
import torch, restart_sampling as rs
from restart_sampling.experiments.measure.samplers import find
den = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2), shape=(1, 4, 4))
for name in ("ab2-log", "ab2-log+restart"):
    candidate = find(name)
    runner = candidate.make(den, 22, 4, "fp32", None)
    x, _ = runner.draw(range(4))
    print(candidate.family, candidate.title, runner.nfe, x.isfinite().all().item())
"""


def test_it_is_a_candidate_of_bench_and_draws(house):
    assert run(house, "-c", DRAW).splitlines() == [
        "ode Adams–Bashforth 2 in ln σ 22 True",
        "restart Adams–Bashforth 2 in ln σ + Restart 22 True",
    ]
    done = python("-m", "restart_sampling", "bench", "--samplers", "nothing", "--nfe", "12", env=house)
    assert done.returncode == 2
    assert "tcd, ab2-log, dpm-solver, er-sde, euler+restart" in done.stdout + done.stderr


def test_it_is_in_the_table_of_the_documentation(house):
    said = run(house, "-c", "from pages import adding_a_solver; print(adding_a_solver.solvers())")
    row = "| `ab2-log` | – | Adams–Bashforth 2 in ln σ | `weight` 0.5 | ODE | 2 | 1 | ve, flow | Adams–Bashforth"
    assert row in said


def test_it_passes_the_tests_of_solvers_and_has_its_order(house):
    paths = house["PYTHONPATH"].replace(os.pathsep, " ")
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={paths}"]
    said = run(house, *words, "tests/solvers/test_orders.py", "-k", "ab2-log", cwd=ROOT)
    assert "test_error_slope_equals_the_order" in run(
        house, *words, "--collect-only", "tests/solvers/test_orders.py", "-k", "ab2-log", cwd=ROOT
    )
    assert re.search(r"\d+ passed", said)
    assert "failed" not in said


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=lambda s: s.name)
def test_a_solver_says_what_others_ask_of_it(solver: Solver):
    assert solver.title
    assert solver.label
    where = "name the paper by its arXiv number or DOI, as in 'arXiv 2206.00364, Algorithm 1'"
    assert re.search(r"arXiv \d{4}\.\d{4,5}|doi:10\.", solver.source), f"source of {solver.name!r}: {where}"
    for process in solver.processes:
        for t, s in ((0.9, 0.5), (0.5, 0.49), (0.3, 1e-3)):
            D = Tracer()
            at = Position(remaining=9, process=process, options=solver.settings, first=0.95, after=s / 2)
            solver.step(X, t, s, D, at)
            assert len(D.stages) == solver.evaluations


NOISY = """
    euler-ancestral dpm2-ancestral dpm++2s-ancestral dpm++sde dpm++2m-sde dpm++3m-sde sa-solver seeds2 seeds3
    er-sde lcm tcd ddpm flow-grpo cps
"""
MULTISTEP = """
    dpm++2m dpm++2m-sde dpm++3m dpm++3m-sde sa-solver unipc lms ab2 ipndm deis gradient-estimation
    res-multistep er-sde dpm-solver
"""
OTHER_NAMES = """
    dpm_2 dpm_2_ancestral dpmpp_2s_ancestral dpmpp_sde dpmpp_2m dpmpp_2m_sde dpmpp_3m_sde euler_ancestral
    uni_pc uni_pc_bh2 ipndm ipndm_v deis lms res_multistep res_multistep_ancestral gradient_estimation seeds_2
    seeds_3 ddim exp_heun_2_x0 exp_heun_2_x0_sde sa_solver sa_solver_pece er_sde heunpp2 lcm ddpm
    UniPCMultistepScheduler DEISMultistepScheduler SASolverScheduler LMSDiscreteScheduler LCMScheduler
    TCDScheduler IPNDMScheduler DPMSolverSDEScheduler KDPM2AncestralDiscreteScheduler
    EulerAncestralDiscreteScheduler
"""


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_is_a_short_file(name):
    (file,) = [
        f for f in (ROOT / "engine" / "restart_sampling" / "solvers").glob("*.py") if f'    "{name}",' in f.read_text()
    ]
    assert len(file.read_text().splitlines()) <= 60


def test_what_is_found_by_tracing():
    noisy = set(NOISY.split())
    assert {name for name, s in SOLVERS.items() if s.noisy} == noisy
    assert {name for name, s in SOLVERS.items() if s.multistep} == set(MULTISTEP.split())
    assert {name for name, s in SOLVERS.items() if s.family == "sde"} == {"edm-stochastic", *noisy}


def test_options_are_found_by_name_alias_and_value():
    assert get_solver("unipc:order=2") == get_solver("unipc", {"order": 2}) == get_solver("unipc", (("order", 2),))
    assert get_solver("unipc:order=3,variant=bh2") == SOLVERS["unipc"]  # the defaults are nothing that was chosen
    assert get_solver("uni_pc:order=2").spec == "unipc:order=2,variant=bh1"
    assert get_solver("dpmpp_2m_sde_heun").settings["variant"] == "heun"
    assert get_solver("exp_heun_2_x0_sde").noisy
    assert not get_solver("exp_heun_2_x0").noisy
    assert get_solver("sa_solver_pece").evaluations == 2
    assert not get_solver("lms:order=1").multistep


@pytest.mark.parametrize("name", OTHER_NAMES.split())
def test_names_of_other_libraries(name):
    assert get_solver(get_solver(name).spec) == get_solver(name)


@pytest.mark.parametrize(
    "text, says",
    [
        (
            'Solver("heun", step, 2, "x", "y")',
            "solvers/heun.py: the name 'heun' is that of solvers/ab2_log.py; choose another",
        ),
        (
            'Solver("x", step, 2, "x", "y", aliases=("ddim",))',
            "solvers/euler.py: the name 'ddim' is that of solvers/ab2_log.py",
        ),
        ('"ab2"', "solvers/ab2_log.py: SOLVER must be a Solver, got a str"),
    ],
)
def test_a_file_that_cannot_be_a_solver_is_named(house, tmp_path, text, says):
    """The files are read in the order of their names."""
    shutil.copytree(Path(house["PYTHONPATH"].split(os.pathsep)[0]), tmp_path / "engine", symlinks=True)
    file = tmp_path / "engine" / "restart_sampling" / "solvers" / "ab2_log.py"
    file.write_text(f"from .euler import step\nfrom .trace import Solver\n\nSOLVER = {text}\n")
    paths = [str(tmp_path / "engine"), *house["PYTHONPATH"].split(os.pathsep)[1:]]
    environment = house | {"PYTHONPATH": os.pathsep.join(paths)}
    done = python("-c", "import restart_sampling.solvers", env=environment)
    assert f"ConfigError: {says}" in done.stderr
