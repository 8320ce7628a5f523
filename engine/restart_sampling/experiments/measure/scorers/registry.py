"""The scorers: every module beside this one that defines `KIND`, and how they are asked for.

    clip=FOLDER    aesthetic=FILE,FOLDER    FILE.py:NAME    package.module:NAME

The last two are functions of yours: score(images uint8 [n, 3, H, W], prompts) → n numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....common.checks import did_you_mean
from ....common.errors import BackendError, CheckpointError, RestartTypeError, RestartValueError
from ....common.files import file_sha256
from ....common.scan import records
from .. import user_code
from .base import Kind, Scorer

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in records(str(__package__), [str(Path(__file__).parent)], "KIND", Kind).values()
}
WEIGHTS = (".safetensors", ".json", ".txt")  # of a folder, what its digest is of


def scorer(text: str) -> Scorer:
    """Return the scorer that a text asks for.

    Raises RestartError if it is not known, or cannot be made.
    """
    name, equals, given = text.partition("=")
    if not equals:
        if ":" not in text:
            raise RestartValueError(
                f"scorer {text!r} must be {', '.join(f'{kind}=PATH' for kind in KINDS)}, FILE.py:NAME or "
                f"package.module:NAME"
            )
        made, label = user_code.made(text, "scorer")
        if not callable(made):
            raise RestartTypeError(f"scorer {text!r} must be a function score(images, prompts), got {made!r}")
        return Scorer(label.partition(" ")[0].rpartition(":")[2], made, {"code": label})
    kind = KINDS.get(name)
    if kind is None:
        hint = did_you_mean(name, KINDS, f"they are {', '.join(KINDS)}")
        raise RestartValueError(f"scorer {name!r} is not known{hint}")
    paths = [Path(part).expanduser() for part in given.split(",") if part]
    if len(paths) != len(kind.files):
        raise RestartValueError(f"scorer {name} needs {' and '.join(kind.files)}, with a comma between, got {given!r}")
    for path in paths:
        if not path.exists():
            raise CheckpointError(f"scorer {name}: there is no file or folder {path}")
    digests = {path.name: digest(path)[:12] for path in paths}
    try:
        return Scorer(name, kind.load(paths), digests)
    except ImportError as error:
        raise BackendError(f"scorer {name} needs {error.name}: pip install 'restart-sampling[{kind.needs}]'") from None


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's weights and configs."""
    if path.is_file():
        return file_sha256(path)
    found = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.suffix in WEIGHTS and p.is_file()):
        found.update(f"{file.name} {file_sha256(file)}\n".encode())
    return found.hexdigest()


def scored(scorer: Scorer, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return what a scorer gives, checked: finite float64 [n].

    Raises RestartTypeError, RestartValueError: it gives something else.
    """
    found: Any = scorer.score(images, prompts)
    values = torch.as_tensor(found, dtype=torch.float64)
    if values.shape != (len(prompts),):
        raise RestartTypeError(f"scorer {scorer.name!r} must give {len(prompts)} numbers, got {list(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise RestartValueError(f"scorer {scorer.name!r} gave NaN or infinite values; means would mean nothing")
    return values
