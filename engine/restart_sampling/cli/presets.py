"""`restart-sampling presets`: the published configurations, with NFE and published score beside each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..plan.notation import RestartConfig
from ..plan.plan import Plan
from ..plan.preset import Preset
from ..plan.presets import find
from ..plan.presets import presets as all_presets


def presets(
    name: Annotated[
        str | None, typer.Argument(help="Explain this preset, or list those of a group that is not listed: edm2.")
    ] = None,
) -> None:
    """List the presets, or explain one."""
    groups = Counter(preset.group for preset in all_presets())
    if name is not None and name not in groups:
        _explain(find(name))
        return
    listed = [preset for preset in all_presets() if preset.group == (name or "")]
    if name:
        _print(("preset", "calls", "FID", "FD", "w", "guided at sigma"), map(_guided_row, listed))
        typer.echo(
            "calls: of network and guide. FID, and FD of DINOv2 features: as published, not measured here.\n"
            "restart-sampling presets NAME says which network and guide a preset is for."
        )
        return
    _print(("preset", "NFE", "FID", "steps", "[N, K, t_min, t_max]"), map(_row, listed))
    typer.echo("FID: as published with the named network (arXiv 2306.14878), not measured here.")
    for group, count in groups.items():
        if group:
            typer.echo(f"{count} more of {group.upper()}: restart-sampling presets {group}")


def _explain(preset: Preset) -> None:
    typer.echo(f"{preset.name}: {preset.dataset}, {preset.network}; {preset.source}")
    if preset.guide:
        typer.echo(f"guide: {preset.guide}")
    scores = {"FID": preset.fid, "FD of DINOv2 features": preset.fd_dinov2}
    published = [f"{name} {score:.2f}" for name, score in scores.items() if score is not None]
    if published:
        typer.echo(f"published: {', '.join(published)}")
    if preset.note:
        typer.echo(f"note: {preset.note}")
    typer.echo(Plan.build(**preset.plan_options).explain(), nl=False)


def _row(preset: Preset) -> tuple[str, ...]:
    options = preset.plan_options
    intervals = RestartConfig.parse(options.get("restart")).intervals
    shown = "\n".join(f"[{i.N}, {i.K}, {i.t_min:g}, {i.t_max:g}]" for i in intervals)
    return preset.name, str(preset.nfe), _score(preset.fid), str(options.get("steps", "")), shown


def _guided_row(preset: Preset) -> tuple[str, ...]:
    options = preset.plan_options
    low, high = options.get("guidance_interval", (None, None))
    where = "" if not preset.guide else "everywhere" if low is None else f"({low:g}, {high:g}]"
    w = f"{options['guidance_scale']:g}" if preset.guide else ""
    calls = str(Plan.build(**options).network_calls)
    return preset.name, calls, _score(preset.fid), _score(preset.fd_dinov2), w, where


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _print(columns: Sequence[str], rows: Any) -> None:
    """Print a table whose first and last columns are text and the others numbers."""
    from rich.table import Table

    from ..common.terminal import plain_console

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in (columns[0], columns[-1]) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    plain_console().print(table)
