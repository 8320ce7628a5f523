"""Blocks of docs/intervals.md: what plans say of their intervals, and the published configurations."""

from __future__ import annotations

import restart_sampling as rs

from ._markdown import prose, table

PAGE = "docs/intervals.md"
NOTATIONS = (
    ("one interval", "[3, 2, 0.14, 0.30]"),
    ("a list of intervals", "[[3, 2, 0.14, 0.30], [4, 1, 0.30, 1.0]]"),
    ("JSON of the official code", '{"0": [3, 2, 0.14, 0.30]}'),
    ("a line of its `params_*.txt`: N_main, then intervals", '18 {"0": [3, 2, 0.14, 0.30]}'),
    ("ComfyUI's nodes", "[3,2,0.06,0.30],[3,1,0.30,0.59]"),
    ("AUTOMATIC1111, {t_min: [N, K, t_max]}", "{0.1: [10, 2, 2]}"),
    ("named fields", '{"N": 3, "K": 2, "t_min": 0.14, "t_max": 0.30}'),
    ("names of refiners", '{"num_steps": 3, "num_iterations": 2, "start_time": 0.14, "end_time": 0.30}'),
    ("the usual preset of ComfyUI's nodes", "default"),
    ("AUTOMATIC1111's rule by step count, here with `steps=30`", "a1111"),
)
REFUSED = (
    {"steps": 18, "restart": "[3, 2, 0.30, 0.06]"},
    {"steps": 18, "restart": "[3, 2, 60, 90]"},
    {"steps": 18, "restart": "[3, 2, 0.0005, 0.30]"},
    {"steps": 5, "restart": "[3, 2, 0.14, 0.15]"},
    {"steps": 18, "restart": "[3, 2, 0.06]"},
    {"steps": 18, "restart": '[3, 2, "10%", 0.30]'},
)


def notations() -> str:
    """Every notation with the intervals that it is read as."""
    lines = []
    for title, text in NOTATIONS:
        config = rs.RestartConfig.parse(text, steps=30 if text == "a1111" else None)
        read = ", ".join(f"[{i.N}, {i.K}, {i.t_min:g}, {i.t_max:g}]" for i in config.intervals)
        lines.append((title, f"`{text}`", read + (f", N_main {config.steps}" if config.steps else "")))
    return table(["notation", "example", "read as"], lines)


def _explained(plan: rs.Plan) -> str:
    return f"```\n{plan.explain()}```"


def moved() -> str:
    return _explained(rs.Plan.build(steps=18, restart="[3, 2, 0.14, 0.30]"))


def collision() -> str:
    return _explained(rs.Plan.build(steps=18, restart="[3, 2, 0.06, 0.30], [4, 1, 0.065, 0.60]"))


def refused() -> str:
    """Intervals that cannot run as written, and what the error says."""
    lines = []
    for options in REFUSED:
        try:
            rs.Plan.build(**options)
        except rs.ConfigError as error:
            lines.append((f"`steps={options['steps']}, restart='{options['restart']}'`", str(error)))
        else:
            raise SystemExit(f"{options} is not refused any more: choose another example")
    return table(["asked", "the error"], lines)


def published() -> str:
    """The presets with Restart: intervals, evaluations and the FID printed beside them."""
    found = [p for p in rs.presets() if "restart" in p.plan_options and p.fid is not None]
    about = prose(f"{len(found)} configurations with Restart are published, and every one is a preset:")
    lines = []
    for preset in found:
        intervals = rs.RestartConfig.parse(preset.plan_options["restart"]).intervals
        read = ", ".join(f"[{i.N}, {i.K}, {i.t_min:g}, {i.t_max:g}]" for i in intervals)
        lines.append((f"`{preset.name}`", preset.plan_options["steps"], read, preset.nfe, preset.fid, preset.source))
    made = table(["preset", "N_main", "intervals [N, K, t_min, t_max]", "NFE", "published FID", "from"], lines)
    return f"{about}\n\n{made}"
