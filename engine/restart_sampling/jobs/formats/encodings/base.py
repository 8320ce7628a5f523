"""What an encoding is."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....common.images import to_pil


@dataclass(frozen=True)
class Encoding:
    """An encoding of pictures.

    Attributes:
        name: as `--encoding` has it, and the ending of its files.
        title: what it is, in a sentence.
        encode: encode(image, quality, text) returns the file of pixels uint8 [H, W, C], C = 1 or 3, with `text` in it
            unless that is None (valid Unicode without NUL); equal arguments give equal bytes.
        quality: the default of `--quality`; None where there is nothing to choose.
    """

    name: str
    title: str
    encode: Callable[[np.ndarray, int | None, str | None], bytes]
    quality: int | None = None


def saved(image: np.ndarray, format: str, **options: Any) -> bytes:
    """Return the file that Pillow writes of pixels uint8 [H, W, C] in its `format`. Raises as `to_pil`."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format=format, **options)
    return buffer.getvalue()
