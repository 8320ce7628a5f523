"""`restart-sampling verify`: does a folder hold what its manifest says? Exit codes: 0 whole, 1 incomplete, 3 broken."""

from __future__ import annotations

import shlex
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer


def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `generate` wrote.")],
    decode: Annotated[int, typer.Option(help="N: decode the files of every Nth shard; 0 for none.")] = 1,
    repair: Annotated[
        bool, typer.Option("--repair", help="Draw again what is broken or missing, as run.json says.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="For --repair: where the run's weights are now; their SHA-256 must be the same.")
    ] = None,
    guide: Annotated[str | None, typer.Option(help="For --repair: likewise the weights of the run's guide.")] = None,
) -> None:
    """Check files, sizes, SHA-256 and counts of a run, and say what is missing or broken."""
    from rich.progress import track

    from ..common.terminal import error, listed, plain_console, say
    from ..jobs import verify as checks
    from ..jobs.job import read_job
    from ..jobs.lock import FolderLock

    total = read_job(folder)[0].shards.count()
    lock = FolderLock(folder) if repair else None
    try:
        checked = track(checks.verify(folder, decode), "verifying", total, console=plain_console(stderr=True))
        report = deque(checked, maxlen=1)[0][1]
        say(f"seeds      {report.seeds:,}")
        say(f"images     {report.images:,}")
        say(f"shards     {report.finished:,} of {report.shards:,} finished")
        for text in report.damaged[:20]:
            say(f"damaged    {text}; its shard is drawn again by a resume")
        if len(report.damaged) > 20:
            say(f"damaged    … and {len(report.damaged) - 20:,} more lines")
        for shard, why in islice(report.broken.items(), 20):
            say(f"broken     shard {shard}: {why}")
        if len(report.broken) > 20:
            say(f"broken     … and {len(report.broken) - 20:,} more shards")
        if report.index:
            say(f"index      {report.index}; the next run writes it again")
        if report.missing:
            seeds = sum(count for _, count in report.missing)
            some = [shard for shard, _ in report.missing]
            shards = "shard" if len(some) == 1 else "shards"
            say(f"missing    {seeds:,} seeds in {len(some):,} {shards}: {listed(some)}")
        if report.saved:
            say(f"saved      {report.saved:,} seeds of unfinished shards, drawn already: a resume goes on after them")
        if report.nonfinite:
            say(f"not finite {len(report.nonfinite):,} seeds have no image: {listed(report.nonfinite)}")
        if report.exit_code == 0:
            say(f"sha256     {checks.fingerprint(folder)} (of all shards)")
        if repair and (report.broken or report.damaged):
            read_job(folder)[1].remove(set(report.broken))
    finally:
        if lock is not None:
            lock.release()
    name = shlex.quote(str(folder))
    again = f"restart-sampling generate --repeat {shlex.quote(str(folder / 'run.json'))} --out {name}"
    if repair and (report.broken or report.damaged or report.index or report.missing):
        from .generate import repeat_into

        repeat_into(folder, model, guide)
        return
    if report.exit_code and (report.broken or report.damaged or report.index or report.missing):
        fix = f"restart-sampling verify {name} --repair" if report.exit_code == 3 else again
        error(f"{folder} is {'broken' if report.exit_code == 3 else 'not complete'}; mend it with: {fix}")
    raise typer.Exit(report.exit_code)
