"""JPEG files, one for each seed, in EDM's layout (per_seed.py)."""

from __future__ import annotations

from .per_seed import of_encoding

FORMAT = of_encoding("jpg", "one JPEG file for each seed, in EDM's layout")
