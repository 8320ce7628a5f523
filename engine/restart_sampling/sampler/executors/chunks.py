r"""Chunks: the numbers of evaluations that are captured, and how any number is put together from them.

Captures are of 8, 4, 2 and 1 evaluations, whatever the plan: 15 evaluations for each batch size cover every plan that
will ever run, in at most ⌊n/8⌋ + 3 launches for n evaluations. A launch of a graph costs the host some microseconds and
an evaluation of a network milliseconds, so longer captures would save nothing; they would cost nodes (a U-Net has some
400 for each evaluation) and another capture for each length.

A plan of n = 8a + 4b + 2c + d evaluations with b, c, d ∈ {0, 1} needs only the captures that appear in this sum.
"""

from __future__ import annotations

CHUNKS = (8, 4, 2, 1)


def cut(rows: int) -> list[int]:
    """Return the chunks that add up to `rows`, the largest first."""
    chunks: list[int] = []
    for chunk in CHUNKS:
        times, rows = divmod(rows, chunk)
        chunks += [chunk] * times
    return chunks
