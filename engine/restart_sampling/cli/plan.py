"""`restart-sampling plan`: say exactly what a run would do, without running it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..common.files import write_atomically
from .options import PlanOptions, with_options


@with_options
def plan(
    chosen: PlanOptions,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this file, which --plan reads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the options and the rows as JSON.")] = False,
) -> None:
    """Print a plan: its segments, what each interval asks for and gets, and the total NFE."""
    built = chosen.plan()
    if save is not None:
        content = built.to_json().encode()
        write_atomically(save, lambda file: file.write(content))
    if as_json:
        rows = [vars(row) for row in built.rows]
        counts = {"nfe": built.nfe, "network_calls": built.network_calls}
        typer.echo(json.dumps({**counts, "plan": built.config.to_dict(), "notes": built.notes, "rows": rows}, indent=1))
    else:
        typer.echo(built.explain(), nl=False)
