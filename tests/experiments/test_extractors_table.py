"""The table of samplers by extractors: only blocks that all share, differences paired by block."""

from __future__ import annotations

import extractors
import numpy as np
import pytest

from restart_sampling.experiments.measure import shipped


def rows_of(blocks):
    """Rows with made-up distances: base of the sampler + noise of the block, which all samplers share."""
    noise = np.random.default_rng(0).normal(size=9)
    common = {"kind": "quality", "n": 1000, "model": "fashion-mnist", "dtype": "fp32", "reference": shipped.REFERENCE}
    return [
        {
            **common,
            "sampler": name.rpartition("@")[0],
            "nfe": int(name.rpartition("@")[2]),
            "features": features,
            "first_seed": 1000 * k,
            "fd_balanced": 5 + i + noise[k] + 0.01 * k * (i + 1),
        }
        for i, name in enumerate(extractors.SAMPLERS)
        for features in shipped.NAMES
        for k in range(blocks + (name == extractors.BEST_SDE))
    ]


def test_differences_are_paired_on_shared_blocks():
    found, shared = extractors.values(rows_of(4))
    assert shared == [0, 1000, 2000, 3000]
    mean, error = extractors.paired(found, shared, "heun@35", shipped.NAMES[2])
    names = list(extractors.SAMPLERS)
    apart = names.index("heun@35") - names.index(extractors.BEST_SDE)
    # The noise of a block is common to both, and drops out.
    less = np.array([apart * (1 + 0.01 * k) for k in range(4)])
    assert mean == pytest.approx(less.mean()) and error == pytest.approx(less.std(ddof=1) / 2)


def test_the_table_has_every_sampler_and_extractor():
    text = extractors.table([*rows_of(3), {"kind": "pooled", "n": 1000}])
    lines = text.splitlines()
    assert "3 blocks of 1,000 seeds" in lines[0] and len(lines) == 5 + len(extractors.SAMPLERS)
    assert all(line.count("|") == 3 + len(shipped.NAMES) for line in lines[3:])
    assert "(" not in lines[-1] and lines[5].count("±") == 4
