"""Plans learned by LD3 and AdaSDE: files in their layouts are read, others are refused, and no code in one is run."""

from __future__ import annotations

import io
import json
import math
import pickle

import numpy as np
import pytest
import torch
from support import problems
from support.pickle_forge import Call, Emitter, persistent
from support.steps import run_steps

import restart_sampling as rs
from restart_kernels import layout
from restart_sampling.common.errors import CheckpointError, ConfigError
from restart_sampling.models.files.learned import read
from restart_sampling.models.parameterization import edm
from restart_sampling.sampler.table import Variant, bind

TIMES = [80.0, 9.5, 1.25, 0.002, 75.0, 10.0, 1.5, 0.003]


def saved(**entries):
    buffer = io.BytesIO()
    torch.save(entries, buffer)
    return buffer.getvalue()


def ld3(values=TIMES, dtype=torch.float64):
    steps = torch.tensor(values, dtype=dtype) if isinstance(values, list) else values
    return saved(params1=torch.nn.Parameter(torch.ones(4)), params2=torch.zeros(4), best_t_steps=steps, best_loss=0.25)


def written(tmp_path, content, name="learned.pt"):
    file = tmp_path / name
    file.write_bytes(content)
    return file


def test_ld3_is_two_lists_of_levels(tmp_path):
    plan = rs.load_plan(written(tmp_path, ld3()))
    assert plan.grid == (80.0, 9.5, 1.25, 0.002, 0.0)
    assert plan.config.network_sigmas == (75.0, 10.0, 1.5, 0.003)
    euler = rs.Plan.build(**read(tmp_path / "learned.pt"), solver="euler")
    assert [row.sigma for row in euler.rows] == [75.0, 10.0, 1.5, 0.003]
    assert rs.Plan.from_json(plan.to_json()).digest == plan.digest


def test_ld3_in_other_forms(tmp_path):
    single = read(written(tmp_path, ld3(dtype=torch.float32)))
    assert single["sigmas"] == torch.tensor(TIMES[:4]).tolist()
    wide = torch.tensor(TIMES, dtype=torch.float64).repeat_interleave(2)[::2]  # strided
    assert read(written(tmp_path, ld3(wide)))["network_sigmas"] == TIMES[4:]
    assert read(written(tmp_path, saved(best_t_steps=TIMES)))["sigmas"] == TIMES[:4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ld3(TIMES[:7]), r"LD3 writes 2\(N \+ 1\) times, N ≥ 1, and this file has 7"),
        (ld3(TIMES[:2]), "this file has 2"),
        (ld3([1.0, 0.5, 1e-3, 1.0, 0.5, 1e-3]), "those of a VP model and not noise levels"),
        (ld3([1.0, 9.0, 1.0, 9.0]), "not positive numbers, those of the solver descending"),
        (ld3([9.0, math.nan, 9.0, 1.0]), "not positive numbers"),
        (ld3([9.0, 1.0, 9.0, -1.0]), "not positive numbers"),
        (ld3(torch.ones(2, 3)), "not a tensor of one dimension"),
        (ld3(torch.arange(8)), "floating-point numbers"),
        (ld3(torch.ones(20_000)), "at most 10000"),
        (saved(best_t_steps="1, 2"), "neither a tensor nor a list"),
        (saved(other=torch.ones(3)), "neither LD3's, which has best_t_steps, nor AdaSDE's"),
        (ld3()[:-30], "incomplete"),
        (b"PK\x03\x04 and no more", "incomplete"),
        (b"\x80\x04.", "left over, or none"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    file = written(tmp_path, content)
    with pytest.raises(CheckpointError, match=message) as info:
        rs.load_plan(file)
    assert str(info.value).startswith(str(file)) and "\n" not in str(info.value)


class Hostile:
    def __reduce__(self):
        return open, ("ran.txt", "w")


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    content = {"best_t_steps": Hostile()}
    file = written(tmp_path, pickle.dumps(content) if form == "pickle" else saved(**content))
    with pytest.raises(CheckpointError, match="refused the global"):
        rs.load_plan(file)
    assert not (tmp_path / "ran.txt").exists()


RAW = {
    "r": [[0.3], [-0.2], [0.0]],
    "scale_dir": [[0.5], [0.0], [-1.0]],
    "scale_time": [[-0.4], [0.1], [2.0]],
    "weight_s": [[0.7], [0.1], [0.0]],
    "gamma": [[0.0], [1.0], [-1.0]],
}
SOURCE = "open('ran.txt', 'w')\n"


def ada_sde(raw=RAW, key="ema", suffix="", drop=()):
    parameters = {
        f"{name}{suffix}": torch.nn.Parameter(torch.tensor(rows)) for name, rows in raw.items() if name not in drop
    }
    state = {"_parameters": parameters, "_buffers": {}, "_modules": {}, "_init_args": (), "_init_kwargs": {}}
    state |= {"training": False, "_backward_hooks": Call("collections.OrderedDict"), "num_steps": 4}
    return Emitter(4).pickle({key: persistent("AdaSDEPredictor", state, SOURCE), "training_set_kwargs": None})


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


@pytest.mark.parametrize("form", [{}, {"key": "model"}, {"suffix": "_params"}])
def test_ada_sde_is_options_of_its_solver(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    plan = rs.load_plan(written(tmp_path, ada_sde(**form), "network-snapshot-000020.pkl"))
    assert not (tmp_path / "ran.txt").exists()
    options = dict(plan.config.solver_options)
    assert plan.config.solver == "ada-sde" and plan.config.family == "sde" and options["w"] == (1.0, 1.0, 1.0)
    assert options["r"] == pytest.approx([sigmoid(v) for (v,) in RAW["r"]], rel=1e-6)
    assert options["c"] == pytest.approx([1 + 0.05 * (2 * sigmoid(v) - 1) for (v,) in RAW["scale_dir"]], rel=1e-6)
    assert options["a"] == pytest.approx([1 + 0.2 * (2 * sigmoid(v) - 1) for (v,) in RAW["scale_time"]], rel=1e-6)
    gamma = [2e-4 + (0.02 - 2e-4) * sigmoid((v + 2 * math.log(1.5)) / 2) for (v,) in RAW["gamma"]]
    assert options["gamma"] == pytest.approx(gamma, rel=1e-6) and gamma[0] == pytest.approx(2e-4 + 0.0198 * 0.6)
    vp = rs.Plan.build(
        steps=4, schedule="vp", schedule_options={"beta_d": None, "beta_min": None}, sigma_min=0.002, sigma_max=80.0
    )
    assert plan.grid == vp.grid
    assert plan.nfe == 7  # two in each of the three steps, and that to 0
    assert rs.Plan.from_json(plan.to_json()).digest == plan.digest


def test_options_of_the_training_are_read_beside_it(tmp_path):
    said = {"AMED_kwargs": {"scale_dir": 0.1, "scale_time": 0.3, "gamma": 0.05, "afs": True, "schedule_rho": 1}}
    (tmp_path / "training_options.json").write_text(json.dumps(said))
    options = read(written(tmp_path, ada_sde()))["solver_options"]
    assert options["gamma"][0] == pytest.approx(2e-4 + (0.05 - 2e-4) * 0.6)
    assert options["c"][0] == pytest.approx(1 + 0.1 * math.tanh(0.25))
    (tmp_path / "training_options.json").write_text('{"schedule_type": "polynomial"}')
    with pytest.raises(CheckpointError, match="the schedule 'polynomial' is not read, only time_uniform"):
        read(tmp_path / "learned.pt")
    (tmp_path / "training_options.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"training_options.json: cannot be read"):
        read(tmp_path / "learned.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ada_sde(drop=("gamma",)), "neither LD3's"),
        (ada_sde(RAW | {"r": [[0.3], [0.1]]}), r"not all of shape \[steps, 1\]"),
        (ada_sde(RAW | {"r": [[0.3, 0.1]] * 3}), r"not all of shape \[steps, 1\]"),
        (ada_sde(RAW | {"r": [0.3, 0.1, 0.2]}), "not a matrix"),
        (ada_sde(RAW | {"r": [[math.inf], [0.1], [0.2]]}), "not finite"),
        (ada_sde() + b"more", "bytes follow the end"),
    ],
)
def test_other_snapshots_are_refused(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message):
        rs.load_plan(written(tmp_path, content, "network-snapshot-000020.pkl"))


def test_a_plan_by_itself_says_what_reads_a_pickle(tmp_path):
    file = written(tmp_path, ld3())
    with pytest.raises(ConfigError, match=r"learned\.pt: it is a pickle.*read it by rs\.load_plan"):
        rs.Plan.from_file(file)


def test_any_plan_file_is_read_by_load_plan(tmp_path):
    plan = rs.Plan.build(steps=9, solver="unipc:order=2", restart=[3, 2, 0.14, 0.3])
    (tmp_path / "p.json").write_text(plan.to_json())
    assert rs.load_plan(tmp_path / "p.json").digest == plan.digest
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read"):
        rs.load_plan(tmp_path / "none.json")


@pytest.mark.parametrize("solver", ["unipc", "dpm2", "seeds2"])
def test_the_network_is_told_the_learned_levels_and_the_solver_stands_at_its_own(solver):
    """In the samples: D is asked at the network's level; midway between two levels, at one interpolated in ln σ."""
    sigmas, told = [8.0, 3.0, 1.0, 0.3], [7.0, 3.3, 0.9, 0.31]
    data, shape, seeds = problems.mixture((2, 3)), (2, 3), range(5)
    plan = rs.Plan.build(sigmas=sigmas, network_sigmas=told, solver=solver)
    x = rs.Sampler(rs.Denoiser.from_function(data, shape), plan, register_dtype=torch.float64).run(seeds)
    asked = []

    def D(z, level):
        asked.append(level)
        return data(z, torch.full((len(z),), level, dtype=torch.float64))

    _, want = run_steps(plan, D, lambda k: rs.noise.normal(seeds, k, shape).double())
    assert (x - want).abs().max() <= 1e-12 * want.abs().max()
    assert asked == [row.sigma for row in plan.rows]
    assert [level for level in asked if level in told] == told
    plain = rs.Plan.build(sigmas=sigmas, solver=solver)
    between = [row.sigma for row in plain.rows if row.sigma not in sigmas]
    assert len(asked) == len(sigmas) + len(between) and asked != [row.sigma for row in plain.rows]
    for level, own in zip((a for a in asked if a not in told), between, strict=True):
        assert math.log(level / own) == pytest.approx(
            np.interp(math.log(own), np.log(sigmas[::-1]), np.log(told[::-1]) - np.log(sigmas[::-1])), abs=1e-12
        )


def test_a_known_image_is_pasted_at_the_level_of_the_state(tmp_path):
    """Not at the one that the network is told, which is what c_in and c_noise are for."""
    sigmas, told = [8.0, 3.0, 1.0, 0.3], [7.0, 3.3, 0.9, 0.31]
    plan = rs.Plan.build(sigmas=sigmas, network_sigmas=told, solver="unipc")
    table = bind(plan, edm(), Variant(paste="initial"))
    assert table.coef[:, layout.S_K].tolist() == [*sigmas, 0.0]
    assert table.sigma[1:].tolist() == told
