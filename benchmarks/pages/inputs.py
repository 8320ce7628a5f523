"""Block of docs/inputs.md: what a job of prompts costs."""

from __future__ import annotations

from restart_sampling.experiments.measure.rows import find

from ._markdown import load, prose, table

PAGE = "docs/inputs.md"


def kills() -> str:
    """Return what became of jobs that were killed."""
    rows = load("kill_prompts.json")["rows"]
    equal = sum(row["equal"] for row in rows)
    formats = " and ".join(dict.fromkeys(f"`{row['format']}`" for row in rows))
    workers = " and ".join(dict.fromkeys(str(row["workers"]) for row in rows))
    return prose(
        f"A job of {rows[0]['prompts']:,} prompts on a tiny pipeline of diffusers was killed with SIGKILL "
        f"{rows[0]['kills']} times at random moments and then finished, in the formats {formats}, by {workers} "
        f"workers: {equal} of {len(rows)} folders equal that of an undisturbed run, byte for byte "
        f"(`python benchmarks/kill_prompts.py`)."
    )


def prompts() -> str:
    """Return the memory by number of prompts, and the share of the speed with given embeddings."""
    rows = load("prompts.json")["rows"]
    lines = [
        (f"{row['prompts']:,}", f"{row['peak_rss_mb']} MB", f"{row['read_seconds']:.2f} s", f"{row['seconds']:.1f} s")
        for row in find(rows, what="memory")
    ]
    (row,) = find(rows, what="waiting")
    share = row["share_of_speed"]
    return "\n\n".join(
        [
            "A job of so many prompts with an encoder, a network and images that cost next to nothing:",
            table(("prompts", "most memory", "checking the file", "whole job"), lines),
            prose(
                f"With an encoder that takes {row['encoding_ms']:g} ms a prompt and a network that takes "
                f"{row['image_ms']:g} ms an image, a job of {row['prompts']} prompts runs at "
                f"{100 * share['median']:.1f} % ({100 * share['q1']:.1f} – {100 * share['q3']:.1f}) of the speed that "
                f"it has with embeddings given, the first prompts included."
            ),
        ]
    )
