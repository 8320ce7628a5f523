"""Options shared by commands, and how they become a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import ConfigError, RestartValueError
from ..plan.plan import Plan
from ..plan.presets import find
from ..solvers.registry import listed

Preset = Annotated[str | None, typer.Option(help="A named configuration; see `restart-sampling presets`.")]
Steps = Annotated[int | None, typer.Option(help="Points of the main grid (N_main). Default 18.")]
Solver = Annotated[str | None, typer.Option(help=f"{listed()}.")]
RestartSolver = Annotated[
    str | None, typer.Option(help="Solver inside Restart intervals. Default: that of the main grid.")
]
Restart = Annotated[
    str | None,
    typer.Option(help="Restart intervals, '[N, K, t_min, t_max]' or any known format, or @FILE; 'none' for none."),
]
SNoise = Annotated[float | None, typer.Option(help="Factor on the std of every injected noise (S_noise).")]
SChurn = Annotated[float | None, typer.Option(help="EDM's S_churn on the main grid.")]
SMin = Annotated[float | None, typer.Option(help="Lowest sigma that is churned (S_min).")]
SMax = Annotated[float | None, typer.Option(help="Highest sigma that is churned (S_max).")]
RestartGamma = Annotated[float | None, typer.Option(help="Churn inside Restart intervals (gamma).")]
SigmaMin = Annotated[float | None, typer.Option(help="Lower end of the main grid.")]
SigmaMax = Annotated[float | None, typer.Option(help="Upper end of the main grid.")]
Rho = Annotated[float | None, typer.Option(help="Exponent of the EDM grid.")]
Schedule = Annotated[str | None, typer.Option(help="edm, exponential, vp, ve, iddpm, sd or flow.")]
OnCollision = Annotated[
    str | None, typer.Option(help="Intervals that snap to one grid point: both, last (official code), first or error.")
]
Batch = Annotated[
    str | None, typer.Option(help="Images per network call, a number or auto (from the network's size). Default auto.")
]
Dtype = Annotated[str | None, typer.Option(help="Network precision: fp32, tf32, bf16 or fp16. Default fp32.")]
Backend = Annotated[
    str | None, typer.Option(help="Implementation of the fused step: auto, native, triton or reference. Default auto.")
]
Graph = Annotated[
    str | None,
    typer.Option(help="CUDA graphs: auto, off, step, loop, trajectory or while (experimental). Default auto."),
]
Compile = Annotated[
    str | None, typer.Option(help="torch.compile of the network: auto (on with CUDA), on or off. Default auto.")
]
Guidance = Annotated[float | None, typer.Option(help="Scale w of classifier-free guidance; 1 is off.")]


def build_plan(preset: str | None, fallback: str | None = None, **given: Any) -> Plan:
    """The plan of `preset` with the given options on top; without any option the `fallback` preset."""
    options = {name: value for name, value in given.items() if value is not None}
    if isinstance(options.get("restart"), str) and options["restart"].startswith("@"):
        options["restart"] = _read(Path(options["restart"][1:]))
    if preset is None and not options:
        preset = fallback
    base = dict(find(preset).plan_options) if preset is not None else {}
    if options.get("restart", "").strip().lower() == "none":
        options.pop("restart")
        base.pop("restart", None)
    return Plan.build(**{**base, **options})


def batch_size(asked: Any, denoiser: Any, plan: Plan, total: int, device: Any, dtype: str) -> int:
    """The batch that `--batch` means for a run of `total` samples."""
    from ..common.devices import check_device
    from ..sampler.autobatch import choose_batch
    from ..sampler.network import DTYPES

    if str(asked) == "auto":
        return choose_batch(
            denoiser.to(device),
            total,
            check_device(device),
            dtype=DTYPES.get(dtype, DTYPES["fp32"]),
            guided=plan.config.guided,
        )
    try:
        return int(asked)
    except ValueError:
        raise RestartValueError(f"--batch must be a number ≥ 1 or auto, got {asked!r}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the Restart configuration {path}: {error}") from error
