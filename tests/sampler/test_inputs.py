"""What people pass in from Python: every kind of number is alike, and everything wrong is a RestartError of one
sentence.
"""

from __future__ import annotations

import io
import math
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import restart_kernels as rk
import restart_sampling as rs
from restart_sampling.common import checks, progress_bar
from restart_sampling.plan.schedule import get_schedule
from restart_sampling.sampler import program
from restart_sampling.sampler.noise import seed_tensor

SHAPE = (2, 3, 4)
CLASSES = ("T-shirt", "Sneaker", "Bag")
RESTART = [3, 2, 0.1, 0.5]


def denoiser(classes=True):
    def fn(x, sigma, class_labels=None):
        shift = 0.0 if class_labels is None else class_labels @ torch.arange(1.0, 4.0)
        shift = torch.as_tensor(shift).view(-1, 1, 1, 1)
        return (x + shift) / (1 + sigma.view(-1, 1, 1, 1) ** 2)

    base = rs.Denoiser.from_function(fn, SHAPE, label_dim=3 if classes else 0)
    names = CLASSES if classes else ()
    return rs.Denoiser(base.network, base.parameterization, SHAPE, base.label_dim, classes=names)


def conditional():
    conditions = {"note": rs.Condition((2,)), "kind": rs.Condition((), torch.int64)}
    return rs.Denoiser.from_function(lambda x, sigma, note, kind: x * 0.5, SHAPE, conditions=conditions)


PLAN = rs.Plan.build(steps=2)


# --- numbers
# ------------------------------------------------------------------------------------------------------------

INTEGERS = [int, np.int64, np.uint8, np.array, torch.tensor]
REALS = [float, np.float32, np.float64, np.array, torch.tensor, Fraction]


@pytest.mark.parametrize("of", INTEGERS)
def test_integers_of_every_library(of):
    plan = rs.Plan.build(steps=of(3), restart=[of(3), of(2), 0.1, 0.5], schedule="vp")
    assert plan == rs.Plan.build(steps=3, restart=RESTART, schedule="vp")
    assert plan.digest == rs.Plan.build(steps=3, restart=RESTART, schedule="vp").digest
    den = denoiser()
    expected = rs.sample(den, PLAN, [5, 7], 1)
    assert torch.equal(rs.sample(den, PLAN, [of(5), of(7)], of(1), batch_size=of(2)), expected)
    assert torch.equal(rs.sample(den, PLAN, [5, 7], [of(1), of(1)]), expected)
    assert torch.equal(rs.noise.normal([of(5)], draw=of(2), shape=(of(6),)), rs.noise.normal([5], 2, (6,)))
    assert rs.Denoiser.from_function(len, (of(2), 3), augmented_dim=of(4)).augmented_dim == 4
    assert [len(chunk) for chunk in rs.parse_seeds(range(5)).chunks(of(3))] == [3, 2]


@pytest.mark.parametrize("of", REALS)
def test_reals_of_every_library(of):
    options = dict(
        sigma_min=0.25,
        sigma_max=64.0,
        rho=8.0,
        s_noise=1.5,
        s_churn=0.5,
        s_min=0.25,
        s_max=32.0,
        restart_gamma=0.125,
        eta=0.5,
        guidance_scale=2.0,
    )
    interval = (0.25, 8.0)
    given = {name: of(value) for name, value in options.items()}
    plan = rs.Plan.build(steps=4, guidance_interval=tuple(map(of, interval)), **given)
    same = rs.Plan.build(steps=4, guidance_interval=interval, **options)
    assert plan == same
    assert plan.digest == same.digest
    grid = rs.Plan.build(sigmas=[of(8.0), of(2.0), of(0.5)])
    assert grid.grid == (8.0, 2.0, 0.5, 0.0)
    shifted = rs.Plan.build(steps=4, schedule="flow", schedule_options={"shift": of(3.0)})
    assert (
        shifted.config.to_dict()
        == rs.Plan.build(steps=4, schedule="flow", schedule_options={"shift": 3.0}).config.to_dict()
    )


@pytest.mark.parametrize("wrong", [True, np.bool_(True), torch.tensor(True), "3", None, 2.0, math.nan, [3], 1j])
def test_what_is_no_integer(wrong):
    with pytest.raises(rs.ConfigError, match="n must be an integer ≥ 2, got"):
        checks.integer("n", wrong, 2)


@pytest.mark.parametrize("wrong", [True, np.bool_(False), torch.tensor(True), "3", None, [3.0], 1j, torch.zeros(2)])
def test_what_is_no_number(wrong):
    with pytest.raises(rs.ConfigError, match="n must be a number, got"):
        checks.real("n", wrong)


@pytest.mark.parametrize(
    "wrong", [math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.inf), 10**400, -1, 2.5]
)
def test_what_is_out_of_range(wrong):
    with pytest.raises(rs.ConfigError, match="n must be a finite number ≥ 0 and ≤ 2, got"):
        checks.real("n", wrong, 0.0, 2.0)
    assert checks.real("n", math.inf, 0.0, infinite=True) == math.inf


# --- seeds, classes, latents
# --------------------------------------------------------------------------------------------


def test_seeds_in_every_form():
    den = denoiser(classes=False)
    expected = rs.sample(den, PLAN, [0, 1, 2, 3])
    for seeds in (
        range(4),
        "0-3",
        rs.parse_seeds("0-3"),
        np.arange(4),
        np.arange(4, dtype=np.uint64),
        torch.arange(4),
        torch.arange(4, dtype=torch.uint8),
        (0, 1, 2, 3),
        iter(range(4)),
        [(s, PLAN) for s in range(4)],
    ):
        assert torch.equal(rs.sample(den, PLAN, seeds), expected), seeds


def test_ranges_in_every_direction_and_of_every_size():
    for seeds in (range(5, 0, -2), range(1, 12, 5), range(0), range(2**63 - 2, 2**63)):
        assert seed_tensor(seeds).tolist() == list(seeds)
    for huge in (range(2**63), range(2**28 + 1), rs.parse_seeds("0-99999999999")):
        with pytest.raises(rs.SeedError, match="seeds in one call are too many, at most 268,435,456"):
            seed_tensor(huge)
    with pytest.raises(rs.SeedError, match="< 2\\^63"):
        seed_tensor(range(2**80))


TAKE_SEEDS = {
    "sample": lambda seeds: rs.sample(denoiser(), PLAN, seeds),
    "run": lambda seeds: rs.Sampler(denoiser(), PLAN).run(seeds),
    "iterate": lambda seeds: list(rs.Sampler(denoiser(), PLAN).iterate(seeds)),
    "normal": lambda seeds: rs.noise.normal(seeds, shape=(2,)),
    "class_labels": lambda seeds: rs.noise.class_labels(seeds, 3),
    "parity": lambda seeds: rs.parity(denoiser(), PLAN, seeds=seeds),
}


@pytest.mark.parametrize("name", TAKE_SEEDS)
def test_one_integer_as_seeds_is_refused_with_both_readings(name):
    for n in (4, np.int64(4), torch.tensor(4)):
        with pytest.raises(
            rs.SeedError, match=r"got 4 alone: write range\(4\) for 4 samples, or \[4\] for the sample of seed 4"
        ):
            TAKE_SEEDS[name](n)
    with pytest.raises(rs.SeedError, match=r"≥ 0 and < 2\^63, got -1 alone$"):
        TAKE_SEEDS[name](-1)
    for wrong in (
        None,
        0.5,
        True,
        {1: 2},
        {1, 2},
        b"12",
        "a-b",
        [None],
        ["1"],
        [[1, 2]],
        torch.ones(2),
        [2**63],
        [-1],
        torch.ones(1, 2).long(),
        np.array([1.0]),
        np.array(["a"]),
        np.array([-1]),
        range(-3, 2),
        torch.tensor([True]),
    ):
        with pytest.raises(rs.RestartError):
            TAKE_SEEDS[name](wrong)


def test_classes_by_name():
    den = denoiser()
    expected = rs.sample(den, PLAN, range(3), [1, 0, 1])
    assert torch.equal(rs.sample(den, PLAN, range(3), ["Sneaker", "T-SHIRT", 1]), expected)
    assert torch.equal(rs.sample(den, PLAN, range(3), "sneaker"), rs.sample(den, PLAN, range(3), 1))


WRONG_CLASSES = {
    "misspelt": ("Sneakers", "class 'Sneakers' does not exist.*did you mean 'Sneaker'"),
    "unknown": ("zebra", r"has classes 0\.\.2 \(T-shirt, Sneaker, Bag\)"),
    "hole": ([1, None, 2], r"class_labels\[1\] must be an integer or the name of a class, got None"),
    "rows_of_other_classes": (torch.eye(4)[:3], r"classes, or rows \[3, 3\] or \[1, 3\], got torch.float32.*\[3, 4\]"),
    "too_few_rows": ([[1, 0, 0]] * 2, r"rows \[3, 3\] or \[1, 3\], got torch.int64 of shape \[2, 3\]"),
    "ragged_rows": ([[1, 0, 0], [1, 0], [1]], "rows of as many numbers as there are classes"),
    "rows_with_nan": (torch.full((3, 3), math.nan), "class_labels hold NaN"),
    "complex_rows": (torch.eye(3, dtype=torch.complex64), "got torch.complex64"),
    "one_row": (torch.ones(3), "class_labels must be integers"),
    "floats": ([1.0, 2.0, 0.0], r"class_labels\[0\] must be an integer"),
    "float_array": (np.zeros(3), "class_labels must be integers"),
    "bools": (torch.tensor([True, False, True]), "class_labels must be integers"),
    "object": (object(), "class_labels must be a class or one for each seed"),
    "huge": ([1, 2**70, 0], r"class_labels\[1\] must be an integer"),
    "dict": ({"Bag": 1}, "1 class_labels were given for 3 seeds"),
}


@pytest.mark.parametrize("name", WRONG_CLASSES)
def test_wrong_classes(name):
    given, message = WRONG_CLASSES[name]
    with pytest.raises(rs.RestartError, match=message):
        rs.sample(denoiser(), PLAN, range(3), given)


def test_sample_takes_what_run_takes_and_names_what_it_does_not():
    den, seen = denoiser(classes=False), []
    latents = rs.noise.normal(range(2), 0, SHAPE)
    assert torch.equal(
        rs.sample(den, PLAN, range(2), latents=latents, callback=seen.append), rs.sample(den, PLAN, range(2))
    )
    assert len(seen) == PLAN.nfe
    with pytest.raises(rs.RestartError, match="no argument 'latent'; did you mean 'latents'"):
        rs.sample(den, PLAN, range(2), latent=latents)
    with pytest.raises(rs.RestartError, match="no argument 'steps'"):
        rs.sample(den, PLAN, range(2), steps=3)
    with pytest.raises(rs.RestartError, match=r"got 'sd15-w8'; use rs.preset\('sd15-w8'\)"):
        rs.sample(den, "sd15-w8", range(2))
    with pytest.raises(rs.RestartError, match="plan must be a Plan"):
        rs.sample(den, PLAN, [(0, PLAN), (1, "heun")])


def test_kernel_errors_are_ours():
    assert issubclass(rk.KernelError, rs.RestartError)
    assert issubclass(rk.KernelError, ValueError)
    with pytest.raises(rs.RestartError, match="unknown backend 'fast'"):
        rs.noise.normal([0], shape=(2,), backend="fast")


# --- progress, names, reprs
# ---------------------------------------------------------------------------------------------


def test_progress_moves_a_bar_and_keeps_the_callback():
    out, seen = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None), []
    with progress_bar.shown(True, seen.append, out) as follow:
        rs.Sampler(denoiser(), PLAN, batch_size=3).run(range(5), callback=follow)
    assert len(seen) == 2 * PLAN.nfe
    assert "5/5 samples" in out.file.getvalue()
    with progress_bar.shown(False, seen.append) as follow:
        assert follow == seen.append


def test_progress_true_writes_to_stderr_alone(capsys):
    rs.sample(denoiser(), PLAN, range(2), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2 samples" in captured.err
    with pytest.raises(rs.RestartError, match="callback must be a function"):
        next(rs.Sampler(denoiser(), PLAN).iterate([0], callback=3))
    for wrong in (dict(progress=print), dict(progress=1), dict(callback=3)):
        with pytest.raises(rs.RestartError, match=r"progress|callback"):
            rs.sample(denoiser(), PLAN, range(2), **wrong)


def test_tab_completion_finds_every_public_name():
    import restart_sampling.integrations.diffusers as of_diffusers
    import restart_sampling.integrations.k_diffusion as of_k_diffusion

    for module in (rs, of_diffusers, of_k_diffusion, rk):
        assert set(module.__all__) <= set(dir(module)), module.__name__
    assert {"load", "Sampler", "sample", "noise", "preset"} <= set(dir(rs))


def test_reprs_are_short():
    den = denoiser()
    sampler = rs.Sampler(den, rs.preset("imagenet64-edm-623"), 2)
    batch = next(iter(rs.Sampler(den, PLAN).iterate(range(2))))
    for thing in (
        den,
        sampler.plan,
        sampler,
        batch,
        sampler.plan.config.restart,
        rs.presets()[0],
        rs.load("fashion-mnist"),
    ):
        assert len(repr(thing)) < 700, thing
        assert "\n" not in repr(thing)
    assert repr(rs.preset("fashion-mnist-22")) == "Plan(22 NFE, dpm++2m, 18 points, sigma 80 → 0.002, 1 interval)"
    assert repr(batch) == "Batch(x=[2, 2, 3, 4] on cpu)"
    assert str(sampler.plan) == sampler.plan.explain()


# --- bounds
# -------------------------------------------------------------------------------------------------------------


def test_plans_of_a_sampler_do_not_pile_up():
    sampler = rs.Sampler(denoiser(), PLAN, batch_size=2)
    expected = sampler.run(range(2))
    table = sampler.table
    for i in range(2 * program.CACHED):
        sampler.set_plan(rs.Plan.build(steps=2, s_noise=1 + i / 1000))
        if i % 16 == 0:
            sampler.run([0])
    assert len(sampler.workspace.tables) == program.CACHED
    assert len(sampler.workspace.program.coef) == 1024
    assert sum(len(entry.table.coef) for entry in sampler.workspace.program.entries.values()) <= 1024
    sampler.set_plan(PLAN)  # forgotten by now, and made again
    assert sampler.table is not table
    assert torch.equal(sampler.run(range(2)), expected)
    assert len(sampler.workspace.tables) == program.CACHED


def test_a_plan_in_use_is_not_forgotten():
    sampler = rs.Sampler(denoiser(), PLAN, batch_size=2)
    table = sampler.table
    for i in range(program.CACHED + 10):
        sampler.set_plan(rs.Plan.build(steps=2, s_noise=1 + i / 1000))
        sampler.set_plan(PLAN)
    assert sampler.table is table


def test_more_plans_in_one_run_than_are_kept(monkeypatch):
    monkeypatch.setattr(program, "CACHED", 2)
    plans = [rs.Plan.build(steps=2 + i) for i in range(5)]
    sampler = rs.Sampler(denoiser(), PLAN, batch_size=4)
    pairs = [(i, plans[i % 5]) for i in range(15)]
    found = sampler.run(pairs)
    assert len(sampler.workspace.program.entries) == 5  # one for each plan, however they alternate
    for (seed, plan), x in zip(pairs, found, strict=True):
        torch.testing.assert_close(rs.sample(denoiser(), plan, [seed])[0], x, rtol=0, atol=0)


# --- fuzzing
# ------------------------------------------------------------------------------------------------------------

WRONG = (
    None,
    True,
    -1,
    0,
    3,
    2**63,
    10**400,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    1j,
    "",
    "x",
    "0-3",
    "\ufeff",
    "\ud800",
    b"1",
    bytearray(b"1"),
    memoryview(b"12"),
    [],
    (),
    {},
    set(),
    [None],
    [[]],
    [[1]],
    ["a"],
    [math.nan],
    [1, None],
    {"a": 1},
    {1: 2},
    range(0),
    range(5, 0),
    iter([]),
    iter([1]),
    (i for i in "ab"),
    slice(3),
    object(),
    object,
    len,
    lambda *a, **k: None,
    Path("x"),
    Ellipsis,
    NotImplemented,
    Fraction(1, 3),
    ValueError("x"),
    PLAN,
    PLAN.config,
    np.float32("nan"),
    np.bool_(True),
    np.datetime64("2020-01-01"),
    np.zeros(0),
    np.zeros((2, 2)),
    np.array("a"),
    np.array([None]),
    torch.float16,
    torch.device("cpu"),
    torch.zeros(0),
    torch.zeros(2, 2),
    torch.tensor(math.nan),
    torch.tensor(1j),
    torch.ones((), device="meta"),
    torch.ones(3, device="meta"),
    torch.zeros(1, *SHAPE, device="meta"),
    torch.zeros(1, *SHAPE).to_sparse(),
)

CALLS = {
    **{
        f"plan.{name}": (lambda v, name=name: rs.Plan.build(**{"steps": 3, name: v}))
        for name in (
            "steps",
            "solver",
            "sigma_min",
            "sigma_max",
            "rho",
            "restart",
            "s_noise",
            "s_churn",
            "s_min",
            "s_max",
            "restart_gamma",
            "schedule",
            "restart_solver",
            "restart_schedule",
            "on_collision",
            "eta",
            "guidance_scale",
            "guidance_interval",
            "schedule_options",
            "sigmas",
        )
    },
    **{
        f"sampler.{name}": (lambda v, name=name: rs.Sampler(**{"denoiser": denoiser(), "plan": PLAN, name: v}))
        for name in (
            "denoiser",
            "plan",
            "batch_size",
            "backend",
            "graph",
            "compile",
            "device",
            "dtype",
            "register_dtype",
        )
    },
    **{
        f"sample.{name}": (
            lambda v, name=name: rs.sample(**{"denoiser": denoiser(), "plan": PLAN, "seeds": [0], name: v})
        )
        for name in ("seeds", "class_labels", "conditions", "latents", "callback", "progress")
    },
    **{
        f"condition.{name}": (lambda v, name=name: rs.Condition(**{"shape": (2,), name: v}))
        for name in ("shape", "dtype", "null", "shared", "default")
    },
    "value": lambda v: rs.sample(conditional(), PLAN, [0], conditions={"note": v, "kind": 1}),
    "id": lambda v: rs.sample(conditional(), PLAN, [0], conditions={"note": 0.0, "kind": v}),
    "own_value": lambda v: rs.sample(conditional(), PLAN, [(0, PLAN, {"note": v, "kind": 1})]),
    "own_class": lambda v: rs.sample(denoiser(), PLAN, [(0, PLAN, {"class_labels": v})]),
    "triples": lambda v: rs.sample(denoiser(), PLAN, [(0, PLAN, v)]),
    **{
        f"normal.{name}": (lambda v, name=name: rs.noise.normal(**{"seeds": [0], "shape": (2,), name: v}))
        for name in ("seeds", "draw", "shape", "device", "backend")
    },
    **{
        f"function.{name}": (lambda v, name=name: rs.Denoiser.from_function(**{"fn": len, "shape": (2,), name: v}))
        for name in ("fn", "shape", "sigma_min", "sigma_max", "label_dim", "process", "augmented_dim", "conditions")
    },
    **{
        f"parity.{name}": (lambda v, name=name: rs.parity(denoiser(), PLAN, **{"seeds": [0], "dtype": "fp32", name: v}))
        for name in ("dtype", "compile", "device", "batch_size", "memory_format")
    },
    "pairs": lambda v: rs.sample(denoiser(), PLAN, [(0, v)]),
    "interval": lambda v: rs.RestartInterval(v, v, v, v),
    "parse": rs.RestartConfig.parse,
    "parse_seeds": rs.parse_seeds,
    "parse_rule": lambda v: rs.RestartConfig.parse({1: [3, 2, 0.1, 0.3]}, rule=v),
    "preset": rs.preset,
    "load": rs.load,
    "schedule": lambda v: get_schedule("edm", rho=v),
    "labels": lambda v: rs.noise.class_labels([0], v),
    "chunks": lambda v: list(rs.parse_seeds("0-3").chunks(v)),
}


@pytest.mark.parametrize("name", CALLS)
def test_anything_is_taken_or_refused_by_a_restart_error(name):
    fell = []
    for value in random.Random(name).sample(WRONG, len(WRONG)):
        if callable(value) and name in ("sample.callback", "function.fn"):
            continue  # what a function of the user raises is the user's
        try:
            CALLS[name](value)
        except rs.RestartError as error:
            assert 0 < len(str(error)) < 2000, repr(value)
        except Exception as error:
            fell.append(f"{value!r:.60}: {type(error).__name__}: {error!s:.120}")
    assert not fell, "\n".join(fell)
