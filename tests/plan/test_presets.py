"""Presets: published NFE from the paper's formulas, snapped levels, unique and independent entries."""

from __future__ import annotations

import numpy as np
import pytest

from restart_sampling.common.errors import ConfigError
from restart_sampling.plan.notation import RestartConfig, snap
from restart_sampling.plan.presets import Preset, find, presets
from restart_sampling.plan.schedule import get_schedule, sd_sigmas

# The published ones; those of EDM2 have a file of their own.
ALL = tuple(p for p in presets() if p.source != "this package" and not p.group)
RESTART = [p for p in ALL if "restart" in p.plan_options]


def nfe(preset: Preset) -> int:
    """Restart, arXiv 2306.14878, appendix C.2."""
    options = preset.plan_options
    steps = options["steps"]
    intervals = RestartConfig.parse(options.get("restart")).intervals
    if options["solver"] == "dpm3":
        return 3 * steps - 3 + sum(3 * i.K * (i.N - 1) for i in intervals)
    main = steps if options["solver"] == "euler" else 2 * steps - 1
    return main + sum(2 * i.K * (i.N - 1) for i in intervals)


def snapped(preset: Preset) -> list[float]:
    options = preset.plan_options
    schedule = get_schedule(options["schedule"], **options.get("schedule_options", {}))
    grid = np.append(schedule.grid(options["steps"], options["sigma_min"], options["sigma_max"]), 0.0)
    return [grid[snap(grid, i.t_min)] for i in RestartConfig.parse(options["restart"]).intervals]


@pytest.mark.parametrize("preset", ALL, ids=lambda p: p.name)
def test_nfe_is_the_papers_formula(preset):
    assert nfe(preset) == preset.nfe


@pytest.mark.parametrize("preset", RESTART, ids=lambda p: p.name)
def test_no_published_row_collides_after_snapping(preset):
    found = snapped(preset)
    intervals = RestartConfig.parse(preset.plan_options["restart"]).intervals
    assert len(set(found)) == len(found)
    assert all(t < interval.t_max for t, interval in zip(found, intervals, strict=True))
    assert min(found) > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10-vp-519", [0.0449]),
        ("cifar10-vp-115", [0.0599]),
        ("cifar10-vp-43", [0.0599]),
        ("cifar10-edm-43", [0.1395]),
        ("cifar10-pfgmpp-43", [0.1395]),
        ("cifar10-vp-dpm3-27", [0.0105]),
        ("cifar10-vp-dpm3-18", [0.0105]),
        ("imagenet64-edm-623", [20.2393, 0.9654, 0.5233, 0.2675, 0.0555]),
        ("imagenet64-edm-99", [19.3525, 1.0882, 0.5853, 0.2964, 0.0599]),
        ("imagenet64-edm-39", [19.9456, 0.8229, 0.0421]),
        ("sd15-w2", [1.0342, 4.951]),
        ("sd15-w3", [0.0413]),
    ],
)
def test_snapped_t_min(name, expected):
    np.testing.assert_allclose(snapped(find(name)), expected, atol=6e-5)


# Restart Tables 1, 3, 5: the NFE and FID that stand beside each configuration.
def test_published_scores():
    scores = {p.name: p.fid for p in ALL}
    assert {name: scores[name] for name in ("cifar10-edm-43", "cifar10-pfgmpp-43", "imagenet64-edm-623")} == {
        "cifar10-edm-43": 1.90,
        "cifar10-pfgmpp-43": 1.88,
        "imagenet64-edm-623": 1.36,
    }
    rows = [p for p in RESTART if p.name.startswith(("imagenet64-edm", "cifar10-vp-5", "cifar10-vp-1"))]
    for group in ("imagenet64", "cifar10"):
        ordered = sorted((p.nfe, p.fid) for p in rows if p.dataset == group)
        assert [fid for _, fid in ordered] == sorted((fid for _, fid in ordered), reverse=True)
    assert len(RESTART) == 23


def test_names_are_unique_and_end_in_their_nfe():
    names = [p.name for p in ALL]
    assert len(set(names)) == len(names)
    for preset in ALL:
        if not preset.name.startswith("sd15") and not preset.name.endswith("churn40"):
            assert preset.name.endswith(f"-{preset.nfe}")
        assert all((preset.dataset, preset.network, preset.source))


def test_noise_factor_is_the_papers():
    for preset in RESTART:
        assert preset.plan_options["s_noise"] == (1.003 if preset.dataset == "imagenet64" else 1.0)
        assert preset.plan_options["restart_gamma"] == 0.0


def test_vp_range_of_dpm_solver_is_full_precision():
    options = find("cifar10-vp-dpm3-27").plan_options
    assert (round(options["sigma_min"], 6), round(options["sigma_max"], 3)) == (0.010486, 152.167)
    assert options["sigma_min"] == float(np.sqrt(np.expm1(0.5 * 19.9 * 1e-3**2 + 0.1 * 1e-3)))
    assert options["sigma_max"] == float(np.sqrt(np.expm1(0.5 * 19.9 + 0.1)))


def test_stable_diffusion_grid_is_the_pipelines():
    options = find("sd15-w8").plan_options
    schedule = get_schedule("sd", **options["schedule_options"])
    grid = schedule.grid(options["steps"], options["sigma_min"], options["sigma_max"])
    assert np.searchsorted(sd_sigmas(), grid).tolist() == list(range(958, 0, -33))


def test_changing_one_preset_changes_no_other():
    find("cifar10-edm-43").plan_options["steps"] = 99
    find("sd15-w2").plan_options["schedule_options"]["spacing"] = "trailing"
    assert find("cifar10-edm-43").plan_options["steps"] == 18
    assert find("sd15-w2").plan_options["schedule_options"]["spacing"] == "leading"


def test_unknown_names():
    with pytest.raises(
        ConfigError, match="preset 'imagenet64-edm-632' is not known; did you mean 'imagenet64-edm-623'"
    ):
        find("imagenet64-edm-632")
    with pytest.raises(ConfigError, match="cifar10-vp-519, "):
        find("zzz")
