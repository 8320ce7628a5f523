"""`restart-sampling plan`: say exactly what a run would do, without running it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from . import options as o


def plan(
    preset: o.Preset = None,
    steps: o.Steps = None,
    solver: o.Solver = None,
    restart: o.Restart = None,
    restart_solver: o.RestartSolver = None,
    s_noise: o.SNoise = None,
    s_churn: o.SChurn = None,
    s_min: o.SMin = None,
    s_max: o.SMax = None,
    restart_gamma: o.RestartGamma = None,
    sigma_min: o.SigmaMin = None,
    sigma_max: o.SigmaMax = None,
    rho: o.Rho = None,
    schedule: o.Schedule = None,
    on_collision: o.OnCollision = None,
    guidance_scale: o.Guidance = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the options and the rows as JSON.")] = False,
) -> None:
    """Print a plan: its segments, what each interval asks for and gets, and the total NFE."""
    built = o.build_plan(
        preset,
        steps=steps,
        solver=solver,
        restart_solver=restart_solver,
        restart=restart,
        s_noise=s_noise,
        s_churn=s_churn,
        s_min=s_min,
        s_max=s_max,
        restart_gamma=restart_gamma,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        rho=rho,
        schedule=schedule,
        on_collision=on_collision,
        guidance_scale=guidance_scale,
    )
    if as_json:
        rows = [vars(row) for row in built.rows]
        typer.echo(
            json.dumps({"nfe": built.nfe, "plan": built.config.to_dict(), "notes": built.notes, "rows": rows}, indent=1)
        )
    else:
        typer.echo(built.explain(), nl=False)
