"""Traces of a sampler, cut into samples and compared."""

from __future__ import annotations

import torch


def traced(sampler, *arguments, **options):
    """The rows of a trace, and its samples."""
    rows, generator = [], sampler.trace(*arguments, **options)
    while True:
        try:
            rows.append(next(generator))
        except StopIteration as end:
            return rows, end.value


def by_sample(rows):
    """Every traced row cut into its samples: (place in the request, row) → (sigma, x, D, noise, draw, seed)."""
    found = {}
    for row in rows:
        for i, place in enumerate(row.index.tolist()):
            noise = row.noise if isinstance(row.noise, float) else row.noise[i].item()
            assert (place, row.row) not in found
            found[place, row.row] = (row.sigma, row.x[i], row.D[i], noise, row.draw, int(row.seeds[i]))
    return found


def assert_equal_traces(found, expected):
    assert found.keys() == expected.keys()
    for key, (sigma, x, D, *rest) in expected.items():
        assert (found[key][0], *found[key][3:]) == (sigma, *rest)
        assert torch.equal(found[key][1], x), key
        assert torch.equal(found[key][2], D), key
