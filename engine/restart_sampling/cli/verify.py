"""`restart-sampling verify`: is a folder what its manifest says? Exit codes: 0 whole, 1 incomplete, 3 broken."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import Annotated

import typer


def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that `generate` wrote.")],
    decode: Annotated[int, typer.Option(help="Decode the files of every Nth shard; 0 for none.")] = 1,
    repair: Annotated[
        bool, typer.Option("--repair", help="Draw again what is broken or missing, as run.json says.")
    ] = False,
) -> None:
    """Check files, sizes, SHA-256 and counts of a run, and say what is missing or broken."""
    from rich.console import Console
    from rich.progress import track

    from ..output import verify as checks
    from ..output.job import Definition
    from ..output.lock import FolderLock
    from ..output.manifest import Manifest

    console = Console(stderr=True, highlight=False)
    lock = FolderLock(folder) if repair and folder.is_dir() else None
    try:
        total = Definition.read(folder).shards.count()
        checked = track(checks.verify(folder, decode), "verifying", total, console=console)
        report = deque(checked, maxlen=1)[0][1]
        print(f"seeds      {report.seeds:,}")
        print(f"images     {report.images:,}")
        print(f"shards     {report.finished:,} of {report.shards:,} finished")
        for text in report.damaged[:20]:
            print(f"damaged    {text}; its shard is drawn again by a resume")
        for shard, why in list(report.broken.items())[:20]:
            print(f"broken     shard {shard}: {why}")
        if len(report.broken) > 20:
            print(f"broken     … and {len(report.broken) - 20} more shards")
        if report.missing:
            seeds = sum(count for _, count in report.missing)
            some = [shard for shard, _ in report.missing]
            print(f"missing    {seeds:,} seeds in {len(some):,} shards: {', '.join(map(str, some[:10]))}")
        if report.kept:
            print(
                f"kept       {report.kept:,} seeds of unfinished shards, drawn already: a resume goes on after them"
            )
        if report.nonfinite:
            print(f"not finite {len(report.nonfinite)} seeds have no image: {report.nonfinite[:10]}")
        if report.exit_code == 0:
            print(f"sha256     {checks.fingerprint(folder)} (of all shards)")
        if repair and (report.broken or report.damaged):
            Manifest.read(folder).remove(set(report.broken))
    finally:
        if lock is not None:
            lock.release()
    again = f"restart-sampling generate --repeat {folder / 'run.json'} --out {folder}"
    if repair and (report.broken or report.damaged or report.missing):
        from .generate import repeat_into

        repeat_into(folder)
        return
    if report.exit_code and (report.broken or report.damaged or report.missing):
        fix = f"restart-sampling verify {folder} --repair" if report.broken or report.damaged else again
        print(
            f"error: {folder} is {'broken' if report.exit_code == 3 else 'not complete'}; mend it with: {fix}",
            file=sys.stderr,
        )
    raise typer.Exit(report.exit_code)
