r"""The published configurations, with the NFE and the FID printed beside them.

Sources: "Restart" is arXiv 2306.14878, "EDM" is arXiv 2206.00364 and its repository's README. NFE follows
Restart, appendix C.2: Heun 2·N_main − 1 + Σ 2·K·(N − 1); DPM-Solver-3 3·N_main − 3 + Σ 3·K·(N − 1); Stable
Diffusion (DDIM, Heun in the intervals) N_main + Σ 2·K·(N − 1), each of them two network calls under guidance.

| group              | names                                                 | from |
|--------------------|-------------------------------------------------------|------|
| Restart            | cifar10-{vp,edm,pfgmpp}-NFE, imagenet64-edm-NFE       | Restart Tables 1, 3, 4, 5 |
| Restart, DPM-3     | cifar10-vp-dpm3-NFE                                   | Restart Table 3 |
| Restart, SD        | sd15-wW                                               | Restart Tables 6-10 |
| Heun, no Restart   | cifar10-{vp,edm,pfgmpp}-heun-NFE, imagenet64-edm-heun-NFE | Restart Tables 1, 2, 4 |
| EDM stochastic     | cifar10-{vp,edm}-sde-NFE, imagenet64-edm-sde-NFE      | Restart Tables 1, 2, 4 |
| EDM's own settings | cifar10-edm-cond-heun-35, imagenet64-edm-sde-511-churn40 | EDM |
| EDM2               | edm2-…, listed by themselves: presets_of_edm2.py      | EDM2, autoguidance, guidance interval |

S_noise is the paper's: 1.003 on ImageNet-64, 1 elsewhere. gamma (churn inside the intervals) is 0; the paper adds that
restart_gamma = 0.05 for t in [0.01, 1] helps slightly on ImageNet-64. The "vanilla SDE" and "Gotta Go Fast" baselines
are left out, because they are not stated as a grid and coefficients, and so are numbers known only from figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..common.checks import did_you_mean, shown
from ..common.errors import ConfigError
from . import presets_of_edm2
from .levels import sd_sigmas, vp_sigma
from .preset import Preset as Preset


def presets() -> tuple[Preset, ...]:
    """All presets, freshly made: changing the options of one changes nothing else."""
    return tuple(_all())


def find(name: str) -> Preset:
    """The preset called `name`; ConfigError names the closest ones."""
    table = {preset.name: preset for preset in _all()}
    if isinstance(name, str) and name in table:
        return table[name]
    listed = ", ".join(name for name, preset in table.items() if not preset.group)
    hint = did_you_mean(
        name, table, f"choose one of {listed}; restart-sampling presets edm2 lists those of EDM2", most=3
    )
    raise ConfigError(f"preset {shown(name)} is not known{hint}")


_NETWORKS = {
    "cifar10-vp": ("cifar10", "baseline-cifar10-32x32-uncond-vp.pkl"),
    "cifar10-edm": ("cifar10", "edm-cifar10-32x32-uncond-vp.pkl"),
    "cifar10-edm-cond": ("cifar10", "edm-cifar10-32x32-cond-vp.pkl"),
    "cifar10-pfgmpp": ("cifar10", "PFGM++ D=2048, unconditional"),
    "imagenet64-edm": ("imagenet64", "edm-imagenet-64x64-cond-adm.pkl"),
}
_PFGMPP = (
    "with a denoiser whose augmented_dim is D, the std of prior and jumps is drawn for each sample; at D = 2048 that "
    "of a jump over [0.14, 0.30] varies by 2 %"
)

_Row = tuple[int, float, int, str]  # NFE, FID, N_main, intervals
_VP = (
    (519, 2.11, 20, '{"0": [9, 30, 0.06, 0.20]}'),
    (115, 2.21, 18, '{"0": [3, 20, 0.06, 0.30]}'),
    (75, 2.27, 18, '{"0": [3, 10, 0.06, 0.30]}'),
    (55, 2.45, 18, '{"0": [3, 5, 0.06, 0.30]}'),
    (43, 2.70, 18, '{"0": [3, 2, 0.06, 0.30]}'),
)
_DPM3 = (
    (27, 2.11, 8, '{"0": [3, 1, 0.06, 0.3]}'),
    (24, 2.15, 7, '{"0": [3, 1, 0.06, 1]}'),
    (21, 2.28, 6, '{"0": [3, 1, 0.06, 1]}'),
    (18, 2.40, 5, '{"0": [3, 1, 0.06, 1]}'),
)
_EDM = ((43, 1.90, 18, '{"0": [3, 2, 0.14, 0.30]}'),)
_PFGMPP_ROWS = ((43, 1.88, 18, '{"0": [3, 2, 0.14, 0.30]}'),)
_IMAGENET = (
    (
        623,
        1.36,
        36,
        '{"0": [10, 3, 19.35, 40.79], "1": [10, 3, 1.09, 1.92], "2": [7, 6, 0.59, 1.09], '
        '"3": [7, 6, 0.30, 0.59], "4": [7, 25, 0.06, 0.30]}',
    ),
    (
        535,
        1.39,
        36,
        '{"0": [6, 1, 19.35, 40.79], "1": [6, 1, 1.09, 1.92], "2": [7, 6, 0.59, 1.09], '
        '"3": [7, 6, 0.30, 0.59], "4": [7, 25, 0.06, 0.30]}',
    ),
    (
        385,
        1.41,
        36,
        '{"0": [3, 1, 19.35, 40.79], "1": [6, 1, 1.09, 1.92], "2": [6, 5, 0.59, 1.09], '
        '"3": [6, 5, 0.30, 0.59], "4": [6, 20, 0.06, 0.30]}',
    ),
    (
        203,
        1.46,
        36,
        '{"0": [4, 1, 19.35, 40.79], "1": [4, 1, 1.09, 1.92], "2": [4, 5, 0.59, 1.09], '
        '"3": [4, 5, 0.30, 0.59], "4": [6, 6, 0.06, 0.30]}',
    ),
    (
        165,
        1.51,
        18,
        '{"0": [3, 1, 19.35, 40.79], "1": [4, 1, 1.09, 1.92], "2": [4, 5, 0.59, 1.09], '
        '"3": [4, 5, 0.30, 0.59], "4": [4, 10, 0.06, 0.30]}',
    ),
    (
        99,
        1.71,
        18,
        '{"0": [3, 1, 19.35, 40.79], "1": [4, 1, 1.09, 1.92], "2": [4, 4, 0.59, 1.09], '
        '"3": [4, 1, 0.30, 0.59], "4": [4, 4, 0.06, 0.30]}',
    ),
    (
        67,
        1.95,
        18,
        '{"0": [5, 1, 19.35, 40.79], "1": [5, 1, 1.09, 1.92], "2": [5, 1, 0.59, 1.09], "3": [5, 1, 0.06, 0.30]}',
    ),
    (39, 2.38, 14, '{"0": [3, 1, 19.35, 40.79], "1": [3, 1, 1.09, 1.92], "2": [3, 1, 0.06, 0.30]}'),
)
# w, FID-5k, intervals, NFE by the formula; steps the published code runs, and its real intervals
_SD = (
    (2, 13.16, '{"0": [5, 2, 1, 9], "1": [5, 2, 5, 10]}', 62, 62, "1.034 .. 8.992 and 4.951 .. 10.027"),
    (3, 14.48, '{"0": [10, 2, 0.1, 3]}', 66, 64, "0.0413 .. 2.998"),
    (5, 16.21, '{"0": [10, 2, 0.1, 2]}', 66, 64, "0.0413 .. 1.998"),
    (8, 18.40, '{"0": [10, 2, 0.1, 2]}', 66, 64, "0.0413 .. 1.998"),
)
# {NFE: FID}
_HEUN = {
    "cifar10-vp": {1023: 2.90, 511: 2.90, 255: 2.90, 127: 2.90, 63: 2.89, 35: 2.97},
    "cifar10-edm": {63: 1.97, 35: 1.97},
    "cifar10-pfgmpp": {63: 1.91, 35: 1.91},
    "imagenet64-edm": {1023: 2.24, 511: 2.24, 255: 2.24, 127: 2.25, 63: 2.30, 35: 2.46},
}
_SDE = {
    "cifar10-vp": {1023: 2.35, 511: 2.37, 255: 2.40, 127: 2.58, 63: 2.88, 35: 3.45},
    "cifar10-edm": {63: 2.27, 35: 2.45},
    "imagenet64-edm": {1023: 1.40, 511: 1.45, 255: 1.50, 127: 1.75, 63: 2.24, 35: 2.97},
}
_CHURN = {
    "cifar10": {"s_churn": 30.0, "s_min": 0.01, "s_max": 1.0, "s_noise": 1.007},
    "imagenet64": {"s_churn": 80.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003},
}


_OWN = "fashion-mnist-classifier"
_HIGH = {
    "steps": 21,
    "rho": 4.0,
    "s_noise": 1.003,
    "solver": "deis",
    "restart_solver": "heun",
    "restart": '{"0": [4, 1, 0.8, 6.4]}',
}
_TWO = {"solver": "dpm++2m", "restart_solver": "heun", "restart": '{"0": [4, 1, 0.8, 6.4], "1": [3, 5, 0.06, 0.30]}'}
_BUNDLED = tuple(
    Preset(
        f"fashion-mnist-{nfe}",
        {"steps": 18, "s_noise": 1.0, **options},
        nfe,
        None,
        "fashion-mnist",
        "the bundled model",
        "this package",
        f"{note}; measured in benchmarks/results/quality.jsonl",
        tuned,
        tuned_on,
    )
    for nfe, options, note, tuned, tuned_on in (
        (
            22,
            {"solver": "dpm++2m", "restart": '{"0": [3, 2, 0.06, 0.30]}'},
            "what `generate` does by default",
            True,
            _OWN,
        ),
        (27, _HIGH, "one jump to high noise, found by `make compare`", True, f"{_OWN}, fashion-mnist-patches"),
        (44, _TWO, "jumps to high and to low noise, found by `make compare`", True, f"{_OWN}, fashion-mnist-patches"),
        (43, {"restart": '{"0": [3, 2, 0.30, 1.0]}'}, "Heun, at higher noise than the paper's", False, _OWN),
    )
)


def _all() -> Iterator[Preset]:
    yield from _BUNDLED
    yield from _restart("cifar10-vp", _VP, "Restart Tables 1, 3")
    yield from _restart("cifar10-edm", _EDM, "Restart Table 3")
    yield from _restart("cifar10-pfgmpp", _PFGMPP_ROWS, "Restart Table 3", _PFGMPP)
    yield from _restart("imagenet64-edm", _IMAGENET, "Restart Tables 4, 5", "restart_gamma = 0.05 is off")
    yield from _dpm3()
    yield from _stable_diffusion()
    yield from _heun()
    yield from _stochastic()
    yield from presets_of_edm2.presets()


def _make(name: str, key: str, nfe: int, fid: float, source: str, note: str, **options: Any) -> Preset:
    """A pixel-space preset on EDM's grid; `options` override the defaults."""
    dataset, network = _NETWORKS[key]
    defaults = {"solver": "heun", "schedule": "edm", "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
    s_noise = 1.003 if dataset == "imagenet64" else 1.0
    return Preset(name, {**defaults, "s_noise": s_noise, **options}, nfe, fid, dataset, network, source, note)


def _restart(key: str, rows: tuple[_Row, ...], source: str, note: str = "") -> Iterator[Preset]:
    for nfe, fid, steps, restart in rows:
        options = {"steps": steps, "restart": restart, "restart_gamma": 0.0}
        yield _make(f"{key}-{nfe}", key, nfe, fid, source, note, **options)


def _dpm3() -> Iterator[Preset]:
    """DPM-Solver-3 runs over the VP network's own range, σ(1e-3) .. σ(1), on a Karras grid."""
    note = (
        "t_min 0.06 snaps to the last grid point, 0.0105; the published script also sets S_noise = 1.003 and "
        "restart_gamma = 0.05 on [0.01, 1]"
    )
    for nfe, fid, steps, restart in _DPM3:
        yield _make(
            f"cifar10-vp-dpm3-{nfe}",
            "cifar10-vp",
            nfe,
            fid,
            "Restart Table 3",
            note,
            solver="dpm3",
            sigma_min=float(vp_sigma(1e-3)),
            sigma_max=float(vp_sigma(1.0)),
            steps=steps,
            restart=restart,
            restart_gamma=0.0,
        )


def _stable_diffusion() -> Iterator[Preset]:
    sigmas = sd_sigmas()
    for w, fid, restart, nfe, run, real in _SD:
        options = {
            "steps": 30,
            "solver": "euler",
            "restart_solver": "heun",
            "restart": restart,
            "restart_gamma": 0.0,
            "schedule": "sd",
            "schedule_options": {"spacing": "leading", "segment": "timestep"},
            "sigma_min": float(sigmas[0]),
            "sigma_max": float(sigmas[-1]),
            "s_noise": 1.0,
            "guidance_scale": float(w),
        }
        note = (
            f"FID-5k on COCO captions; two network calls per evaluation. The published code runs {run} "
            f"steps (the paper quotes {47 if w == 8 else 66}), snaps t_max too, so that it restarts over "
            f"{real}, and ends at sigma 0.0292 where this plan ends at 0"
        )
        data = "coco-val-5k", "stable-diffusion-v1-5", "Restart Tables 6-10"
        yield Preset(f"sd15-w{w}", options, nfe, fid, *data, note)


def _heun() -> Iterator[Preset]:
    for key, table in _HEUN.items():
        for nfe, fid in table.items():
            steps = (nfe + 1) // 2
            yield _make(f"{key}-heun-{nfe}", key, nfe, fid, "Restart Tables 1, 2, 4", "", steps=steps)
    key = "cifar10-edm-cond"
    yield _make(f"{key}-heun-35", key, 35, 1.79, "EDM README", "class-conditional", steps=18)


def _stochastic() -> Iterator[Preset]:
    note = 'the paper\'s "Improved SDE"; churn settings from its scripts'
    for key, table in _SDE.items():
        for nfe, fid in table.items():
            options = {"solver": "edm-stochastic", "steps": (nfe + 1) // 2, **_CHURN[_NETWORKS[key][0]]}
            yield _make(f"{key}-sde-{nfe}", key, nfe, fid, "Restart Tables 1, 2, 4", note, **options)
    key, note = "imagenet64-edm", "EDM's own setting; the Restart paper measures 1.45 with S_churn = 80"
    options = {"solver": "edm-stochastic", "steps": 256, **_CHURN["imagenet64"], "s_churn": 40.0}
    yield _make(f"{key}-sde-511-churn40", key, 511, 1.36, "EDM README", note, **options)
