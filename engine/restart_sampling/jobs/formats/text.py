r"""What is known of a sample as text: JSON beside it, and the text in a picture.

The text in a picture is the one that A1111's field `parameters` has made a habit, and that many viewers parse:

    the prompt, on as many lines as it has
    Negative prompt: …
    Steps: 18, Sampler: heun, CFG scale: 4.5, Seed: 12, Size: 512x512, Model hash: 0123456789, …

A value with a comma, a colon or a line break is quoted as JSON quotes it. The line of a prompt that itself begins with
"Negative prompt:" cannot be told from that line; the JSON has each in full."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

HASH_DIGITS = 10  # of a model's SHA-256, as that field has them


def valid(text: object) -> str:
    """Return a text as any file can hold it: "" for None, lone surrogates become "?"."""
    return "" if text is None else str(text).encode("utf-8", "replace").decode()


def as_json(value: object) -> bytes:
    """Return a value on one line of ASCII, with its keys in order.

    What JSON cannot hold is null (NaN, infinities) or "?" (lone surrogates), so that every reader can read it.
    """
    return json.dumps(_clean(value), sort_keys=True).encode()


def _clean(value: object) -> object:
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, Mapping):
        return {valid(name): _clean(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parameters(record: Mapping[str, Any], height: int, width: int, job: Mapping[str, Any]) -> str:
    """Return the text in a picture.

    Args:
        record: what is known of the sample, see `base.ShardData.record`.
        height, width: of the picture, in pixels.
        job: see `options.Options.job`.
    """
    plan = job.get("plan", {})
    values = {
        "Steps": plan.get("steps"),
        "Sampler": plan.get("solver"),
        "CFG scale": plan.get("guidance_scale"),
        "Seed": record["seed"],
        "Size": f"{width}x{height}",
        "Model hash": (job.get("model_sha256") or "")[:HASH_DIGITS] or None,
        "Class": record.get("class"),
        "Restart": _intervals(plan.get("restart")),
        "NFE": job.get("nfe"),
        "Plan": record.get("plan") or None,
    }
    lines = [_shown(record.get("prompt"))]
    if negative := _shown(record.get("negative_prompt")):
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in values.items() if value is not None))
    return "\n".join(line for line in lines if line)


def _shown(text: object) -> str:
    """Return a prompt as a chunk of a PNG can hold it: readers cut at NUL."""
    return valid(text).replace("\0", "\ufffd").strip()


def _intervals(restart: str | None) -> str | None:
    """Return the Restart intervals of a plan, a JSON object, without quotes: "[3, 2, 0.06, 0.3]"; None for none."""
    found = [*json.loads(restart or "{}").values()]
    return None if not found else str(found[0] if len(found) == 1 else found)


def _quoted(value: object) -> str:
    """Return a value of the last line."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text
