"""Norms of networks in one launch: group norm with what stands around it, and EDM2's pixel norm."""

from .operators import FLOATS as FLOATS
from .operators import group_norm as group_norm
from .operators import pixel_norm as pixel_norm

__all__ = ["FLOATS", "group_norm", "pixel_norm"]
