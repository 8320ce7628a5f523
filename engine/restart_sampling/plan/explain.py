"""`Plan.explain()`: the plan as a table a person can read."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from .guidance import rounded

if TYPE_CHECKING:
    from ..solvers import Solver
    from .options import PlanConfig
    from .plan import Plan
    from .trajectory import Step


def level(value: float) -> str:
    """A noise level in at most five significant digits."""
    return f"{value:.5g}"


def explain(plan: Plan, width: int = 100) -> str:
    """Segments in running order, intervals with what was asked and what is used, NFE, and everything that was moved."""
    from rich import box
    from rich.table import Table

    from ..common.terminal import plain_console

    config = plan.config
    solver, restart_solver = config.solvers
    grid = "given" if config.sigmas else config.schedule
    calls = f" · {plan.network_calls} network calls" if plan.network_calls != plan.nfe else ""
    head = f"{plan.nfe} NFE{calls} · {solver.title} · {grid} grid, {len(plan.grid) - 1} points"
    head += f" · sigma {level(plan.grid[0])} → {level(plan.grid[-2])} → 0"
    head += f" · rho {config.rho:g}" if grid == "edm" else ""

    walk = Table(box=box.SIMPLE_HEAD, title="The walk", title_justify="left", pad_edge=False)
    for name in ("segment", "sigma", "steps", "K", "evaluations", "noise injected on arrival"):
        walk.add_column(name, justify="left" if name in ("segment", "sigma", "noise injected on arrival") else "right")
    used = {i.number: i for i in plan.intervals}
    at = plan.grid[0]
    for group in _groups(plan):
        first, last = group[0], group[-1]
        evaluations = sum(len(s.stages) for s in group)
        iterations = 1 + max(s.iteration for s in group)
        restart = first.interval is not None
        noisy = [s.noise for s in group if s.noise]
        steps = len(group) // iterations
        walk.add_row(
            f"restart {first.interval}" if restart else "main",
            f"{level(used[first.interval].t_max if restart else at)} → {level(last.s)}",  # type: ignore[index]
            str(steps),
            str(iterations) if restart else "",
            f"{iterations} × {evaluations // iterations} = {evaluations}" if restart else str(evaluations),
            _noise_text(noisy),
        )
        at = last.s
    walk.add_row("total", "", "", "", str(plan.nfe), f"{plan.draws} draws")

    out = plain_console(file=io.StringIO(), width=width, color_system=None)
    out.print(head, soft_wrap=True)
    out.print(walk)
    if plan.intervals:
        table = Table(box=box.SIMPLE_HEAD, title="Restart intervals", title_justify="left", pad_edge=False)
        for name in ("#", "N", "K", "t_min asked", "t_min used", "grid point", "t_max asked", "t_max used", "NFE"):
            table.add_column(name, justify="right")
        for i in plan.intervals:
            table.add_row(
                str(i.number),
                str(i.N),
                str(i.K),
                level(i.asked.t_min),
                level(i.t_min),
                str(i.index),
                level(i.asked.t_max),
                level(i.t_max),
                str(i.nfe),
            )
        out.print(table)
    for line in (*_solver_options(solver, restart_solver), *_options(plan)):
        out.print(line, soft_wrap=True)
    for note in plan.notes:
        out.print(f"note: {note}", soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines()).strip() + "\n"  # type: ignore[attr-defined]


def _groups(plan: Plan) -> list[list[Step]]:
    """Consecutive steps of one segment: a stretch of the main grid, or all K iterations of one interval."""
    groups: list[list[Step]] = []
    for step in plan.steps:
        if groups and groups[-1][-1].interval == step.interval:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def _noise_text(noisy: list[float]) -> str:
    if not noisy:
        return ""
    values = sorted({f"{n:.4g}" for n in noisy}, key=float)
    if len(values) == 1:
        return f"{len(noisy)} × std {values[0]}"
    return f"{len(noisy)} × std {values[0]} … {values[-1]}"


def _options(plan: Plan) -> list[str]:
    config = plan.config
    lines = []
    if config.s_churn:
        lines.append(
            f"churn on the main grid: S_churn {config.s_churn:g} while {config.s_min:g} ≤ sigma ≤ {config.s_max:g}"
        )
    if config.restart_gamma and plan.intervals:
        lines.append(
            f"churn inside intervals: gamma {config.restart_gamma:g} while {config.s_min:g} ≤ sigma ≤ {config.s_max:g}"
        )
    if config.s_noise != 1 and plan.draws:
        lines.append(f"S_noise {config.s_noise:g} on every injected noise")
    if config.guided:
        where = _where(plan)
        twice = plan.network_calls - plan.nfe + min(config.zero_init, plan.nfe)
        rows = "every evaluation" if twice == plan.nfe else f"{twice} of {plan.nfe} evaluations"
        run = "runs" if twice == plan.nfe else "run"
        lines.append(f"guidance scale {config.guidance_scale:g}{where}: {rows} {run} the network on 2 inputs")
        lines += _method(config)
    if config.zero_init:
        lines.append(f"zero_init {config.zero_init}: the first evaluations leave out the network")
    return lines


def _where(plan: Plan) -> str:
    """Return where guidance acts, in words; "" for everywhere."""
    low, high = asked = plan.config.guidance_interval
    if asked == (0, math.inf):
        return ""
    if plan.config.guidance_interval_rounding == "none":
        return f" while {low:g} ≤ sigma ≤ {high:g}"
    lo, hi = rounded(plan)
    return f" in steps from sigma in ({level(lo)}, {level(hi)}] (asked {low:g} … {high:g}, rounded to the grid)"


def _solver_options(solver: Solver, inside: Solver) -> list[str]:
    """Return what the solvers are set to, and which one runs inside intervals if it is another one."""
    lines = [f"options of {solver.name}: {_settings(solver)}"] if solver.options else []
    if inside is not solver:
        lines.append(f"inside intervals: {inside.title}" + f" with {_settings(inside)}" * bool(inside.options))
    return lines


def _settings(solver: Solver) -> str:
    return ", ".join(f"{option.name} {_shown(solver.settings[option.name])}" for option in solver.options)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " / ".join(f"{v:g}" for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _method(config: PlanConfig) -> list[str]:
    if config.guidance == "cfg++":
        return ["CFG++: the direction back to the noise comes from the unconditional output"]
    if config.guidance == "zero-star":
        return ["CFG-Zero*: the unconditional output is scaled to be closest to the conditional one"]
    if config.guidance == "apg":
        clip = f", the difference clipped to norm {config.apg_norm:g}" if config.apg_norm else ""
        return [f"projected guidance: the parallel part has weight {config.apg_eta:g}{clip}"]
    return [f"guidance rescale {config.guidance_rescale:g}"] if config.guidance_rescale else []
