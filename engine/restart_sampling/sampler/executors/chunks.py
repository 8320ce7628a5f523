r"""Chunks: the numbers of evaluations that are captured, and how any number is launched as a few of them.

Captures are of 8, 4, 2 and 1 evaluations, whatever the plan: 15 evaluations for each batch size cover every plan that
will ever run, in ⌊n/8⌋ + at most 3 launches for n evaluations. A launch of a graph costs the host some microseconds, an
evaluation of a network milliseconds, so longer captures would save nothing; their cost is nodes (a U-Net has some 400
for each evaluation) and another capture for each length.

A plan of n evaluations has n = 8a + 4b + 2c + d with b, c, d ∈ {0, 1}: it needs only the captures that appear there.
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
