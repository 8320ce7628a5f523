"""WebP of a quality from 1 to 99, and at 100 lossless: the pixels themselves, in fewer bytes than PNG.

A lossy WebP has colours of half the resolution at any quality, so a lossy 100 would be the largest file that still is
not the picture. WebP knows no grey: readers get three equal channels."""

from __future__ import annotations

import numpy as np

from .base import Encoding, saved
from .exif import exif

LOSSLESS = 100
EFFORT = dict(quality=75, method=4)  # of lossless files: how long the encoder searches


def encode(image: np.ndarray, quality: int | None, text: str | None) -> bytes:
    """Return a WebP file."""
    quality = ENCODING.quality if quality is None else quality
    how = {"lossless": True, **EFFORT} if quality == LOSSLESS else {"quality": quality, "method": EFFORT["method"]}
    return saved(image, "WEBP", **how, **exif(text))


ENCODING = Encoding(name="webp", title="WebP", encode=encode, quality=90)
