"""Which formats there are: every module of this folder that defines `FORMAT`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ...common.checks import choice, either, integer
from ...common.errors import OutputError
from ...common.scan import records
from . import __name__ as package
from . import __path__ as paths
from .base import Format
from .encodings.registry import DEFAULT as DEFAULT_ENCODING
from .encodings.registry import find as find_encoding
from .options import METADATA

DEFAULT = "png"


# The default first, then those that need no extra, by name.
_FOUND = records(package, paths, "FORMAT", Format).values()
FORMATS = {f.name: f for f in sorted(_FOUND, key=lambda f: (f.name != DEFAULT, bool(f.needs), f.name))}
VERSION = max(format.version for format in FORMATS.values())  # recorded by a job, whatever its format


def find(name: str, version: int = VERSION) -> Format:
    """Return the format called `name` as it was in `version`.

    Raises:
        OutputError: there is none, or it needs an extra; the message says what there is, or what to install.
    """
    format = FORMATS.get(name)
    if format is None:
        raise OutputError(f"format must be one of {', '.join(FORMATS)}, got {name[:40]!r}")
    if version > VERSION:
        raise OutputError(f"the files are of format version {version}, and this program knows up to {VERSION}")
    while format.version > version and format.before is not None:
        format = format.before
    for needed in format.modules:
        try:
            importlib.import_module(needed)
        except ImportError:
            raise OutputError(
                f"--format {name} needs {needed}; install it with: pip install 'restart-sampling[{format.needs}]'"
            ) from None
    return format


def holding(pixels: str) -> list[str]:
    """Return the names of the formats that hold such pixels, "uint8" or "float32"."""
    return [name for name, format in FORMATS.items() if pixels in format.pixels]


def storage(
    name: str,
    version: int = VERSION,
    pixels: str = "uint8",
    encoding: str | None = None,
    quality: int | None = None,
    metadata: str | Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
    classes: bool = False,
) -> dict[str, Any]:
    """Return the entries of run.json that say how a job stores its pictures, checked; none where all is the default.

    Args:
        name, version, pixels: of the format.
        encoding: of its pictures, by default the first that the format has.
        quality: 1 to 100, by default that of the encoding.
        metadata: what is stored with each picture: "text", "json", several with commas, or "none".
        shape, classes: of a sample, and whether samples have classes.

    Raises:
        OutputError: there is no such choice, or not with this format or these pixels.
    """
    format = find(name, version)
    given = {"encoding": encoding, "quality": quality, "metadata": metadata}
    if pixels != "uint8" or not format.encodings:
        for option, value in given.items():
            if value is None or (option == "metadata" and not _wanted(metadata)):
                continue
            what = f"--format {name} holds arrays" if not format.encodings else f"{pixels} samples are no pictures"
            raise OutputError(f"{what}, so there is no {option} to choose; leave out --{option}")
        return {"grid": {"shape": [*map(int, shape)], "classes": classes}} if format.grid and shape is not None else {}
    found = find_encoding(format.encodings[0] if encoding is None else encoding)
    if found.name not in format.encodings:
        others = [other.name for other in FORMATS.values() if found.name in other.encodings]
        raise OutputError(
            f"--format {name} holds {either(format.encodings)}, not {found.name}; choose --format {either(others)}, or "
            f"leave out --encoding"
        )
    if quality is not None and found.quality is None:
        raise OutputError(f"{found.name} has no quality to choose; leave out --quality, or choose another --encoding")
    quality = found.quality if quality is None else integer("quality", quality, 1, 100, error=OutputError)
    stored = _wanted(metadata)
    for what in stored:
        if what not in format.metadata:
            allowed = ["none", *format.metadata]
            raise OutputError(f"--format {name} takes {either(allowed)} as --metadata, got {what!r}")
    return {
        **({} if found.name == DEFAULT_ENCODING else {"encoding": found.name}),
        **({} if quality is None else {"quality": quality}),
        **({"metadata": stored} if stored else {}),
    }


def _wanted(metadata: str | Sequence[str] | None) -> list[str]:
    """Return the names in `--metadata`, each once and in the order of METADATA. Raises OutputError for others."""
    given = metadata.split(",") if isinstance(metadata, str) else [*(metadata or ())]
    names = {name.strip() for name in given} - {"none", ""}
    for name in sorted(names):
        choice("metadata", name, ("none", *METADATA), error=OutputError)
    return [name for name in METADATA if name in names]
