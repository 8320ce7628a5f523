"""`restart-sampling plan`: say exactly what a run would do, without running it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .options import PlanOptions, with_options


@with_options
def plan(
    chosen: PlanOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the options and the rows as JSON.")] = False,
) -> None:
    """Print a plan: its segments, what each interval asks for and gets, and the total NFE."""
    built = chosen.plan()
    if as_json:
        rows = [vars(row) for row in built.rows]
        counts = {"nfe": built.nfe, "network_calls": built.network_calls}
        typer.echo(json.dumps({**counts, "plan": built.config.to_dict(), "notes": built.notes, "rows": rows}, indent=1))
    else:
        typer.echo(built.explain(), nl=False)
