"""A text in EXIF's UserComment, where JPEG and WebP files carry what a PNG has in a tEXt chunk.

The bytes are put together here, because Pillow writes the entry with the type BYTE, and its readers want UNDEFINED, as
the standard says (EXIF 2.3, 4.6.5)."""

from __future__ import annotations

import struct
from typing import Any

EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
LONG, UNDEFINED = 4, 7
CODE = b"UNICODE\0"  # the character code of EXIF; the text after it is UTF-16, big-endian as the readers expect it
MOST = 65_000  # bytes: EXIF is one segment of a JPEG, of at most 65,533 with its headers


def exif(text: str | None) -> dict[str, Any]:
    """Return the option of Pillow's `save` that stores a text; a text beyond MOST is cut and then ends with "…"."""
    if text is None:
        return {}
    content = text.encode("utf-16-be")
    if len(content) > MOST:
        content = content[:MOST].decode("utf-16-be", "ignore").encode("utf-16-be") + "…".encode("utf-16-be")
    content = CODE + content
    # A TIFF header; a directory whose one entry is where the next one is; that one, whose entry is the comment.
    first = struct.pack(">HHHLLL", 1, EXIF_IFD, LONG, 1, 26, 0)
    second = struct.pack(">HHHLLL", 1, USER_COMMENT, UNDEFINED, len(content), 44, 0)
    return {"exif": b"Exif\0\0MM\0*" + struct.pack(">L", 8) + first + second + content}
