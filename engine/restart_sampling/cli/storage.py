"""Options of `generate` that say how pictures are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..common.checks import either
from ..jobs.formats.encodings.registry import DEFAULT, ENCODINGS
from ..jobs.formats.registry import FORMATS

TAKE = ", ".join(name for name, format in FORMATS.items() if len(format.encodings) > 1)
QUALITIES = ", ".join(f"{e.quality} for {name}" for name, e in ENCODINGS.items() if e.quality is not None)


@dataclass(frozen=True)
class StorageOptions:
    """How pictures are stored; None stands for options that were not given."""

    encoding: Annotated[
        str | None, typer.Option(help=f"Of pictures in {TAKE}: {either(ENCODINGS)}. Default {DEFAULT}.")
    ] = None
    quality: Annotated[
        int | None,
        typer.Option(help=f"Quality of such pictures, 1 to 100; webp of 100 is lossless. Default {QUALITIES}."),
    ] = None
    metadata: Annotated[
        str | None,
        typer.Option(
            help="What is stored with each picture: none, text (prompt, seed and plan in the picture, as its viewers "
            "read them), json (a file beside it) or text,json. Default none."
        ),
    ] = None

    def over(self, recorded: dict[str, Any], format: str | None) -> dict[str, Any]:
        """Return a recorded layout without what another format or encoding, asked for now, would contradict."""
        gone: set[str] = set()
        if format not in (None, recorded["format"]):
            gone = {"encoding", "quality", "metadata"}
        elif self.encoding not in (None, recorded.get("encoding", DEFAULT)):
            gone = {"quality"}
        return {name: value for name, value in recorded.items() if name not in gone}
