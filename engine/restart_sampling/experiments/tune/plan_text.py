"""A plan that was found, written for a user and for a row: its options, its command line, its line of Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ...common.errors import ConfigError
from ...plan.plan import Plan

Row = dict[str, Any]
FLAGS = (  # flags of `generate`, each with its option of Plan.build
    ("--steps", "steps"),
    ("--solver", "solver"),
    ("--restart-solver", "restart_solver"),
    ("--rho", "rho"),
    ("--s-noise", "s_noise"),
    ("--s-churn", "s_churn"),
    ("--s-min", "s_min"),
    ("--s-max", "s_max"),
    ("--restart-gamma", "restart_gamma"),
    ("--sigma-min", "sigma_min"),
    ("--sigma-max", "sigma_max"),
    ("--schedule", "schedule"),
    ("--on-collision", "on_collision"),
    ("--eta", "eta"),
    ("--eta-window", "eta_window"),
    ("--guidance-scale", "guidance_scale"),
    ("--guidance", "guidance"),
    ("--guidance-interval", "guidance_interval"),
    ("--guidance-interval-rounding", "guidance_interval_rounding"),
    ("--guidance-rescale", "guidance_rescale"),
    ("--apg-eta", "apg_eta"),
    ("--apg-norm", "apg_norm"),
    ("--zero-init", "zero_init"),
)


def options(plan: Plan) -> Row:
    """Return what differs from the defaults of `Plan.build`, with `steps`: enough to build the plan again."""
    own, default = plan.config.to_dict(), Plan.build(steps=18).config.to_dict()
    found = {name: value for name, value in own.items() if name == "steps" or value != default.get(name)}
    if plan.config.restart.intervals:
        intervals = [[i.N, i.K, i.t_min, i.t_max] for i in plan.config.restart.intervals]
        found["restart"] = intervals[0] if len(intervals) == 1 else intervals
    elif plan.config.restart.resampling is None:
        found.pop("restart", None)
    return found


def command(plan: Plan, model: str, dtype: str = "fp32", row: Mapping[str, Any] | None = None) -> str:
    """Return the plan as a `restart-sampling generate` command line. Raises ConfigError if an option has no flag.

    `row` has the guide, if there is one, as "guide" and "guide_null".
    """
    given = options(plan)
    main, inside = plan.config.solvers
    for name, solver in (("solver", main), ("restart_solver", inside)):
        if given.pop(f"{name}_options", None):
            given[name] = solver.spec  # as --solver reads it
    words = ["restart-sampling", "generate", "--model", model]
    if row is not None and row.get("guide"):
        words += ["--guide", str(row["guide"]), *(["--guide-null"] if row.get("guide_null") else [])]
    for flag, name in FLAGS:
        if name in given:
            words += [flag, _word(given.pop(name))]
    for name, value in dict(given.pop("schedule_options", ())).items():
        words += ["--schedule-option", f"{name}={value}"]
    if "restart" in given:
        words += ["--restart", str(given.pop("restart"))]
    if given:
        raise ConfigError(f"{', '.join(given)} cannot be given on the command line; build the plan in Python")
    if dtype != "fp32":
        words += ["--dtype", dtype]
    return shlex.join(words)


def _word(value: Any) -> str:
    """Return the value of an option as a command line has it; two numbers as "0.2,5", with "inf" for no limit."""
    if isinstance(value, (list, tuple)):
        return ",".join("inf" if part is None else str(part) for part in value)
    return str(value)


def python(plan: Plan) -> str:
    """Return the plan as a line of Python."""
    return f"rs.Plan.build({', '.join(f'{name}={value!r}' for name, value in options(plan).items())})"


def plan_fields(plan: Plan, nfe: int, dtype: str) -> Row:
    """Return the fields that a row has of the plan."""
    return {
        "sampler": "tuned",
        "by": "engine",
        "source": "found by search",
        "family": plan.config.family,
        "nfe": nfe,
        "key": f"{plan.digest}-{dtype}",
        "plan": plan.digest,
        "config": plan.config.to_dict(),
        "restart": plan.config.restart.to_json() if plan.intervals else "",
    }
