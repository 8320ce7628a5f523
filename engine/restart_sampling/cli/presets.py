"""`restart-sampling presets`: the configurations of the paper, with NFE and published FID beside each."""

from __future__ import annotations

from typing import Annotated

import typer

from ..plan.notation import RestartConfig
from ..plan.plan import Plan
from ..plan.presets import find
from ..plan.presets import presets as all_presets


def presets(name: Annotated[str | None, typer.Argument(help="Explain this preset.")] = None) -> None:
    """List the presets, or explain one."""
    from rich.table import Table

    from ..common.terminal import plain_console

    if name is not None:
        preset = find(name)
        typer.echo(f"{preset.name}: {preset.dataset}, {preset.network}; {preset.source}")
        if preset.note:
            typer.echo(f"note: {preset.note}")
        typer.echo(Plan.build(**preset.plan_options).explain(), nl=False)
        return
    table = Table(box=None, pad_edge=False)
    for column, justify in (
        ("preset", "left"),
        ("NFE", "right"),
        ("FID", "right"),
        ("steps", "right"),
        ("[N, K, t_min, t_max]", "left"),
    ):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for preset in all_presets():
        intervals = RestartConfig.parse(preset.plan_options.get("restart")).intervals
        options = preset.plan_options
        fid = "" if preset.fid is None else f"{preset.fid:.2f}"
        table.add_row(
            preset.name,
            str(preset.nfe),
            fid,
            str(options.get("steps", "")),
            "\n".join(f"[{i.N}, {i.K}, {i.t_min:g}, {i.t_max:g}]" for i in intervals),
        )
    plain_console().print(table)
    typer.echo("FID: as published with the named network (arXiv 2306.14878), not measured here.")
