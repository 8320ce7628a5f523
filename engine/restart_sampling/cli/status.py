"""`restart-sampling status`: how far a run is, from its folder alone, wherever the run takes place."""

from __future__ import annotations

import json
import shlex
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer


def status(
    folder: Annotated[Path, typer.Argument(help="A folder that `generate` writes or wrote.")],
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a job is, how much of it is finished, how fast it goes and who is at work."""
    from ..common.terminal import listed, say, size
    from ..jobs.events import images_per_second, tail
    from ..jobs.formats.options import ENTRIES as STORED
    from ..jobs.job import read_job
    from ..jobs.lock import running
    from ..jobs.verify import glance

    definition, manifest = read_job(folder)
    record, lines = definition.record, manifest.lines.values()
    total, shards = len(definition.seeds), definition.shards
    # A line with fewer seeds than its shard is replaced by a later run: of that shard, what is saved counts.
    finished = [
        line
        for line in lines
        if line.count + len(line.nonfinite) == shards.size or manifest.done(line.shard, shards[line.shard].seeds)
    ]
    saved = sum(map(len, definition.saved(folder, manifest).values()))
    images = sum(line.count for line in finished) + saved
    bad = definition.saved(folder, manifest, nonfinite=True)
    nonfinite = sorted({seed for line in lines for seed in line.nonfinite}.union(*bad.values()))
    rate = images_per_second(tail(folder / "log.jsonl"))
    left = total - images - len(nonfinite)
    broken = glance(folder, definition, manifest)
    found: dict[str, Any] = {
        "folder": str(folder),
        "model": record["model"],
        **({"guide": record["guide"]} if "guide" in record else {}),
        "plan": record["plan_digest"],
        "nfe": record["nfe"],
        "format": record["format"],
        **{name: record[name] for name in STORED if name in record},
        "seeds": total,
        "images": images,
        "kept": saved,
        "nonfinite": nonfinite,
        "left": left,
        "shards": len(finished),
        "bytes": sum(line.bytes for line in lines),
        "at_work": running(folder),
        "images_per_s": rate,
        "seconds_left": left / rate if rate and left > 0 else None,
        "damaged": manifest.damaged,
        "broken": {str(shard): why for shard, why in broken.items()},
    }
    if json_:
        print(json.dumps(found, indent=2))
        return
    guided = f" guided by {record['guide']}" if "guide" in record else ""
    say(
        f"{found['model']}{guided}, plan {found['plan']}, {found['nfe']} NFE, format {found['format']}{_stored(record)}"
    )
    counted = f"{len(finished):,} {'shard' if len(finished) == 1 else 'shards'}"
    say(f"{images:,} of {total:,} images ({images / total:.1%}) in {counted}, {size(found['bytes'])}")
    if saved:
        say(f"of these, {saved:,} are of unfinished shards, saved for a resume to go on after them")
    for shard, why in islice(broken.items(), 10):
        say(f"broken: shard {shard}: {why}")
    if len(broken) > 10:
        say(f"broken: … and {len(broken) - 10:,} more shards")
    for text in manifest.damaged:
        say(f"damaged: {text}; its shard is drawn again by a resume")
    if nonfinite:
        say(f"{len(nonfinite):,} seeds became NaN or infinite and have no image: {listed(nonfinite)}")
    if found["at_work"]:
        speed = f", {rate:.3g} images/s" if rate else ""
        ends = f", about {_duration(found['seconds_left'])} to go" if found["seconds_left"] else ""
        say(f"running: {', '.join(found['at_work'])}{speed}{ends}")
    elif broken:
        say(f"not running; draw what is gone again with: restart-sampling verify {shlex.quote(str(folder))} --repair")
    elif left > 0:
        run, out = shlex.quote(str(folder / "run.json")), shlex.quote(str(folder))
        say(f"not running; go on with: restart-sampling generate --repeat {run} --out {out}")
    else:
        say("finished")


def _stored(record: dict[str, Any]) -> str:
    """Return how pictures are stored where it is not the default: " (jpg, quality 95, with text)"."""
    found = [record["encoding"]] if record.get("encoding", record["format"]) != record["format"] else []
    found += [f"quality {record['quality']}"] if "quality" in record else []
    found += [f"with {' and '.join(record['metadata'])}"] if "metadata" in record else []
    return f" ({', '.join(found)})" if found else ""


def _duration(seconds: float) -> str:
    """Return a time in hours and minutes, or in minutes and seconds."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
