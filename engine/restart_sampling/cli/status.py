"""`restart-sampling status`: how far a run is, from its folder alone; the run may be anywhere."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer


def status(
    folder: Annotated[Path, typer.Argument(help="A folder that `generate` writes or wrote.")],
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a job is, how much of it is finished, how fast it goes and who is at work."""
    from ..output.job import Definition
    from ..output.lock import running
    from ..output.manifest import Manifest

    definition, manifest = Definition.read(folder), Manifest.read(folder)
    record, lines = definition.record, manifest.lines.values()
    total, shards = len(definition.seeds), definition.shards
    # A line of fewer seeds than its shard has promises nothing: of that shard, what is kept counts.
    finished = [
        line
        for line in lines
        if line.count + len(line.nonfinite) == shards.size
        or manifest.done(line.shard, shards[line.shard].seeds)
    ]
    kept = sum(map(len, definition.kept(folder, manifest).values()))
    images = sum(line.count for line in finished) + kept
    nonfinite = sorted(seed for line in lines for seed in line.nonfinite)
    rate = _rate(folder / "log.jsonl")
    left = total - images - len(nonfinite)
    found: dict[str, Any] = {
        "folder": str(folder), "model": record["model"], "plan": record.get("plan_digest"), "nfe": record["nfe"],
        "format": record["format"], "seeds": total, "images": images, "kept": kept,
        "nonfinite": nonfinite, "left": left,
        "shards": len(finished), "bytes": sum(line.bytes for line in lines), "at_work": running(folder),
        "images_per_s": rate, "seconds_left": left / rate if rate and left > 0 else None,
        "damaged": manifest.damaged,
    }  # fmt: skip
    if json_:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['model']}, plan {found['plan']}, {found['nfe']} NFE, format {found['format']}")
    share = f"{images / total:.1%}" if total else ""
    print(
        f"{images:,} of {total:,} images ({share}) in {len(finished):,} shards, {found['bytes'] / 1e6:,.1f} MB"
    )
    if kept:
        print(f"of these, {kept:,} are of unfinished shards, kept for a resume to go on after them")
    if found["at_work"]:
        speed = f", {rate:.3g} images/s" if rate else ""
        ends = f", about {_duration(found['seconds_left'])} to go" if found["seconds_left"] else ""
        print(f"running: {', '.join(found['at_work'])}{speed}{ends}")
    elif left > 0:
        print(
            f"not running; go on with: restart-sampling generate --repeat {folder / 'run.json'} --out {folder}"
        )
    else:
        print("finished")
    if nonfinite:
        print(f"{len(nonfinite)} seeds became NaN or infinite and have no image: {nonfinite[:10]}")
    for text in manifest.damaged:
        print(f"damaged: {text}; its shard is drawn again by a resume")


def _rate(log: Path, window: float = 600.0) -> float | None:
    """Images per second over the last `window` seconds of the log, all workers together; None where it does not say."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 200_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    now = max((event["time"] for event in events), default=0.0)
    now = time.time() if time.time() - now < 60 else now
    shards = [event for event in events if event["event"] == "shard" and now - event["time"] <= window]
    starts = [event["time"] for event in events if event["event"] == "start"]
    since = max(now - window, starts[-1] if starts else now - window)
    images = sum(event["count"] - event.get("before", 0) for event in shards if event["time"] >= since)
    return images / (now - since) if images and now > since else None


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
