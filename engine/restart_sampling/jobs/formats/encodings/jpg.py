"""JPEG of a quality from 1 to 100. From 90 on, colours have the full resolution (4:4:4); below, half of it (4:2:0)."""

from __future__ import annotations

import numpy as np

from .base import Encoding, saved
from .exif import exif

FULL_COLOUR_FROM = 90


def encode(image: np.ndarray, quality: int | None, text: str | None) -> bytes:
    """Return a JPEG file."""
    quality = ENCODING.quality if quality is None else quality
    subsampling = "4:4:4" if quality is not None and quality >= FULL_COLOUR_FROM else "4:2:0"
    return saved(image, "JPEG", quality=quality, subsampling=subsampling, **exif(text))


ENCODING = Encoding(name="jpg", title="JPEG", encode=encode, quality=95)
