"""Which formats there are: every module of this folder that defines `FORMAT`."""

from __future__ import annotations

import importlib

from ...common.errors import OutputError
from ...common.scan import records
from . import __name__ as package
from . import __path__ as paths
from .base import Format

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
