"""The formats of a job's samples, one file each: png, npz, wds, parquet.

A format is a module of this folder that defines `FORMAT`, and nothing else has to know it; docs/adding-a-format.md.
"""

from typing import TYPE_CHECKING

from ...common.lazy import lazy

if TYPE_CHECKING:
    from .base import Format as Format
    from .base import ShardData as ShardData
    from .base import Written as Written
    from .registry import find as find

__getattr__, __dir__ = lazy(__name__, {"Format": "base", "ShardData": "base", "Written": "base", "find": "registry"})
