"""Which encodings there are: every module of this folder that defines `ENCODING`."""

from __future__ import annotations

from ....common.checks import choice
from ....common.errors import OutputError
from ....common.scan import records
from . import __name__ as package
from . import __path__ as paths
from .base import Encoding

DEFAULT = "png"

# The default first, then by name.
_FOUND = records(package, paths, "ENCODING", Encoding).values()
ENCODINGS = {e.name: e for e in sorted(_FOUND, key=lambda e: (e.name != DEFAULT, e.name))}


def find(name: str) -> Encoding:
    """Return the encoding called `name`. Raises OutputError if there is none."""
    return ENCODINGS[choice("encoding", name, ENCODINGS, error=OutputError)]
