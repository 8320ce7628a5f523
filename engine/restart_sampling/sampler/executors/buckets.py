r"""Buckets: the few batch sizes that captured graphs and compiled networks are made for.

A graph has one batch size, and so has a network compiled for one shape. A batch of n samples runs on the smallest
bucket that holds it, 1, 2, 4, … or the sampler's batch size. So at most 2n − 1 lanes are computed, and at most
⌈log2(batch size)⌉ + 1 sizes are ever made. Lanes ≥ n are padding; their output is discarded.
"""

from __future__ import annotations


def bucket(n: int, largest: int) -> int:
    """Return the smallest power of two ≥ n, but at most `largest`; n is in 1 … largest."""
    return min(1 << (n - 1).bit_length(), largest)


def batches(n: int, largest: int) -> tuple[int, ...]:
    """Return the different numbers of samples in the batches of a run of n samples, the largest first."""
    full, rest = divmod(n, largest)
    return ((largest,) if full else ()) + ((rest,) if rest else ())
