"""PNG: the pixels themselves. A text is the chunk `parameters`: tEXt where it is Latin-1, iTXt otherwise."""

from __future__ import annotations

import numpy as np

from ....common.images import png_bytes
from .base import Encoding, saved

KEYWORD = "parameters"


def encode(image: np.ndarray, quality: int | None, text: str | None) -> bytes:
    """Return a PNG file; `quality` means nothing here."""
    if text is None:
        return png_bytes(image)
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(KEYWORD, text)
    return saved(image, "PNG", pnginfo=info)


ENCODING = Encoding(name="png", title="PNG, the pixels themselves", encode=encode)
