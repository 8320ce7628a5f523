"""Options that several commands share, each declared once.

A group of options is a dataclass whose fields are the options. A command that takes a parameter of such a class and is
decorated with `with_options` has the options of the group at that place, and is called with the group:

    @with_options
    def plan(chosen: PlanOptions, as_json: … = False) -> None:
        built = chosen.plan()
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..common.checks import either
from ..common.errors import ConfigError, RestartValueError
from ..models.files.plan_file import load_plan
from ..plan.guidance import METHODS
from ..plan.options import PlanConfig
from ..plan.plan import Plan
from ..plan.presets import find
from ..plan.schedule import SCHEDULES
from ..plan.schedules.registry import option_of
from ..solvers import SOLVERS

Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cuda if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="Network precision: fp32, tf32, bf16 or fp16. Default fp32.")]
Batch = Annotated[
    str | None, typer.Option(help="Images per network call, a number or auto (from the network's size). Default auto.")
]


Scale = Annotated[float | None, typer.Option(help="Scale w of classifier-free guidance; 1 is off.")]
Interval = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Noise levels (sigma) where guidance acts, HIGH may be inf; other evaluations are one network call.",
    ),
]
Rounding = Annotated[
    str | None,
    typer.Option(
        help="none, or grid: ends of --guidance-interval are rounded to points of the main grid, and guidance acts in "
        "whole steps. Default none."
    ),
]


@dataclass(frozen=True)
class GuidanceOptions:
    """Guidance of every plan of a command; None stands for options that were not given."""

    guidance_scale: Scale = None
    guidance_interval: Interval = None
    guidance_interval_rounding: Rounding = None

    def options(self) -> dict[str, Any]:
        """Return options of `Plan.build`, checked; none without a scale."""
        options = given(self)
        if "guidance_scale" not in options and options:
            raise RestartValueError(
                f"--{next(iter(options)).replace('_', '-')} was given without --guidance-scale; give the scale too"
            )
        if "guidance_interval" in options:
            options["guidance_interval"] = pair("--guidance-interval", options["guidance_interval"], float, "0.2,5")
        config = Plan.build(**options).config.to_dict()
        return {name: config[name] for name in options if name in config}


@dataclass(frozen=True)
class PlanOptions:
    """The options of a plan; None stands for those that were not given."""

    preset: Annotated[str | None, typer.Option(help="A named configuration; see `restart-sampling presets`.")] = None
    plan_file: Annotated[
        Path | None,
        typer.Option(
            "--plan", help="A plan file, or a schedule learned by LD3, AdaSDE or GITS; other options go on top of it."
        ),
    ] = None
    steps: Annotated[int | None, typer.Option(help="Points of the main grid (N_main). Default 18.")] = None
    solver: Annotated[str | None, typer.Option(help=f"{either(SOLVERS)}.")] = None
    restart: Annotated[
        str | None,
        typer.Option(help="Restart intervals, '[N, K, t_min, t_max]' or any known format, or @FILE; 'none' for none."),
    ] = None
    restart_solver: Annotated[
        str | None, typer.Option(help="Solver inside Restart intervals. Default: that of the main grid.")
    ] = None
    s_noise: Annotated[float | None, typer.Option(help="Factor on the std of every injected noise (S_noise).")] = None
    s_churn: Annotated[float | None, typer.Option(help="EDM's S_churn on the main grid.")] = None
    s_min: Annotated[float | None, typer.Option(help="Lowest sigma that is churned (S_min).")] = None
    s_max: Annotated[float | None, typer.Option(help="Highest sigma that is churned (S_max).")] = None
    restart_gamma: Annotated[float | None, typer.Option(help="Churn inside Restart intervals (gamma).")] = None
    sigma_min: Annotated[float | None, typer.Option(help="Lower end of the main grid.")] = None
    sigma_max: Annotated[float | None, typer.Option(help="Upper end of the main grid.")] = None
    rho: Annotated[float | None, typer.Option(help="Exponent of the EDM grid.")] = None
    schedule: Annotated[str | None, typer.Option(help=f"The main grid: {either(SCHEDULES)}.")] = None
    schedule_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Option of the main grid, such as shift=3; may be given several times."
        ),
    ] = None
    on_collision: Annotated[
        str | None,
        typer.Option(help="Intervals that snap to one grid point: both, last (official code), first or error."),
    ] = None
    eta: Annotated[float | None, typer.Option(help="Noise of ancestral solvers (eta); 0 is DDIM. Default 1.")] = None
    eta_window: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Steps A ≤ i < B of the main grid that have noise, from 0; in the others eta is 0."
        ),
    ] = None
    guidance_scale: Scale = None
    guidance: Annotated[
        str | None, typer.Option(help=f"Method of guidance: {either(METHODS)}. Default {METHODS[0]}.")
    ] = None
    guidance_interval: Interval = None
    guidance_interval_rounding: Rounding = None
    guidance_rescale: Annotated[
        float | None, typer.Option(help="Guidance rescale, the share phi from 0 to 1; with --guidance cfg.")
    ] = None
    apg_eta: Annotated[
        float | None,
        typer.Option(help="Weight of the part of the guidance along the conditional output; with --guidance apg."),
    ] = None
    apg_norm: Annotated[
        float | None, typer.Option(help="Norm that the guidance is clipped to, 0 for never; with --guidance apg.")
    ] = None
    zero_init: Annotated[
        int | None, typer.Option(help="First evaluations that leave out the network; with --guidance zero-star.")
    ] = None

    def plan(self, fallback: str | None = None, own: Callable[[int], dict[str, Any]] | None = None) -> Plan:
        """Return the plan: that of the preset or file, with the other options on top.

        Without any option it is that of `fallback`.

        Args:
            own: of a model that knows its noise levels: steps → the options that take the place of a preset's.
        """
        options = given(self)
        preset, file = options.pop("preset", None), options.pop("plan_file", None)
        if preset is not None and file is not None:
            raise RestartValueError("--plan and --preset are two plans to begin with; give one of them")
        if "restart" in options:
            options["restart"] = restart_text(options["restart"])
        for name, kind, example in (("eta_window", int, "0,4"), ("guidance_interval", float, "0.2,5")):
            if name in options:
                options[name] = pair(f"--{name.replace('_', '-')}", options[name], kind, example)
        if preset is None and file is None and not options and own is None:
            preset = fallback
        base = dict(find(preset).plan_options) if preset is not None else {}
        if own is not None and preset is None and file is None:
            base = own(options.get("steps", PlanConfig.steps))
        if file is not None:
            base = load_plan(file).config.to_dict()
            refuse_other_levels(file, base, options)
        for name in ("schedule", "solver", "restart_solver"):
            if options.get(name, base.get(name)) != base.get(name):
                base.pop(f"{name}_options", None)
        if "schedule_option" in options:
            name = options.get("schedule", base.get("schedule", "edm"))
            told = dict(option_of(name, text) for text in options.pop("schedule_option"))
            options["schedule_options"] = {**dict(base.get("schedule_options", ())), **told}
        if options.get("restart", "").strip().lower() == "none":
            options.pop("restart")
            base.pop("restart", None)
        return Plan.build(**{**base, **options})


@dataclass(frozen=True)
class EngineOptions:
    """How the samples are drawn; None stands for options that were not given."""

    device: Device = None
    dtype: Dtype = None
    backend: Annotated[
        str | None,
        typer.Option(help="Implementation of the fused step: auto, native, triton or reference. Default auto."),
    ] = None
    graph: Annotated[
        str | None,
        typer.Option(help="CUDA graphs: auto, off, step, loop, trajectory or while (experimental). Default auto."),
    ] = None
    compile: Annotated[
        str | None, typer.Option(help="torch.compile of the network: auto (on with CUDA), on or off. Default auto.")
    ] = None


def given(group: Any) -> dict[str, Any]:
    """Return the options of a group that were given, by name."""
    return {name: value for name, value in vars(group).items() if value is not None and value != []}


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command: each of its parameters that is a group becomes the options of the group."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            types = get_type_hints(kind, include_extras=True)
            for field in fields(kind):
                parameters.append(
                    inspect.Parameter(
                        field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
                    )
                )
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind))

    @wraps(command)
    def gathered(**options: Any) -> None:
        made = {
            name: kind(**{field.name: options.pop(field.name) for field in fields(kind) if field.name in options})
            for name, kind in groups.items()
        }
        command(**made, **options)

    signature = inspect.Signature(parameters)
    gathered.__signature__ = signature  # type: ignore[attr-defined]
    gathered.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return gathered


def batch_size(asked: Any, denoiser: Any, plan: Plan, total: int, device: Any, dtype: str) -> int:
    """Return the batch size that `--batch` means for a run of `total` samples."""
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


def refuse_other_levels(file: Path, base: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise RestartValueError for options that would choose other levels than those that a file lists."""
    for name in ("steps", "schedule", "schedule_option", "sigma_min", "sigma_max"):
        if base.get("sigmas") and name in options:
            raise RestartValueError(
                f"--{name.replace('_', '-')} cannot go on top of {file}, which lists its levels one by one"
            )


def restart_text(text: str) -> str:
    """Return a Restart configuration as `--restart` gives it: itself, or the content of @FILE."""
    if not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the Restart configuration {path}: {error}") from error


def pair(option: str, text: str, kind: Callable[[str], Any], example: str) -> tuple[Any, Any]:
    """Return the two numbers of a text such as "0.2,5", each read by `kind`. Raises RestartValueError."""
    try:
        first, second = (kind(part) for part in text.split(","))
    except ValueError:
        raise RestartValueError(
            f"{option} must be two {'integers' if kind is int else 'numbers'} with a comma between them, got {text!r}; "
            f"for example {example}"
        ) from None
    return first, second


def names(text: str) -> list[str]:
    """Return the names of a list that is separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def specs(text: str) -> list[str]:
    """Return the solvers of a list separated by commas; so are the options of one, unipc:order=2,variant=bh1."""
    found: list[str] = []
    for part in names(text):
        if "=" in part and ":" not in part and found:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def budgets(option: str, text: str, least: int, example: str) -> list[int]:
    """Return the budgets of evaluations in a list that is separated by commas, each once. Raises RestartValueError."""
    parts = names(text)
    if not parts or not all(part.isdecimal() and int(part) >= least for part in parts):
        raise RestartValueError(
            f"{option} must be numbers ≥ {least} separated by commas, got {text!r}; for example {example}"
        )
    return list(dict.fromkeys(int(part) for part in parts))


def check_least(numbers: Mapping[str, tuple[float, float]]) -> None:
    """Raise RestartValueError for an option that is below its least value; `numbers` is name → (value, least)."""
    for name, (value, least) in numbers.items():
        if value < least:
            raise RestartValueError(f"--{name} must be ≥ {least}, got {value}")
