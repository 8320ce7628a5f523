"""A picture of a shard as a file, and files of pictures that are read again."""

from __future__ import annotations

from pathlib import Path

from ...common.strict_json import loads
from .base import ShardData
from .encodings.registry import ENCODINGS
from .options import Options
from .text import parameters

SUFFIXES = tuple(f".{name}" for name in ENCODINGS)


def picture(data: ShardData, i: int, options: Options) -> bytes:
    """Return the file of image i, uint8 [H, W, C], in the encoding and with the text that a job asks for."""
    image = data.images[i]
    height, width = image.shape[:2]
    text = parameters(data.record(i), height, width, options.job) if "text" in options.metadata else None
    return ENCODINGS[options.encoding].encode(image, options.quality, text)


def check(path: Path) -> int:
    """Return the number of pictures in a file: 1, or 0 for lines of JSON; raise ValueError if it cannot be read."""
    if path.suffix in (".json", ".jsonl"):
        try:
            for line in path.read_bytes().splitlines():
                loads(line)
        except OSError as error:
            raise ValueError(str(error)) from error
        return 0
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    return 1
