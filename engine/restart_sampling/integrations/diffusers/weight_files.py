"""The weight files of a part of a pipeline's folder, by the names that diffusers and transformers give them.

model.safetensors           model-00001-of-00002.safetensors
model.fp16.safetensors      model.fp16-00001-of-00002.safetensors      of the variant fp16
"""

from __future__ import annotations

import re
from pathlib import Path

SUFFIX = ".safetensors"
_NAME = re.compile(r"[^.]+?(?:\.(?P<variant>[^.]+?))?(?:-\d+-of-\d+)?\.safetensors")


def by_variant(part: Path) -> dict[str | None, list[Path]]:
    """Return the weight files of a part by their variant, None for those of none; nothing if there is no folder."""
    found: dict[str | None, list[Path]] = {}
    for path in sorted(part.glob(f"*{SUFFIX}")):
        if (name := _NAME.fullmatch(path.name)) is not None:
            found.setdefault(name["variant"], []).append(path)
    return found


def chosen(part: Path, variant: str | None) -> list[Path]:
    """Return the weight files of a part that are read: those of the variant, or else those of none."""
    found = by_variant(part)
    return found.get(variant) or found.get(None, [])


def only_variant(part: Path) -> str | None:
    """Return the variant of a part whose weights are there in one variant alone; None where there are others."""
    found = by_variant(part)
    return next(iter(found)) if len(found) == 1 else None
