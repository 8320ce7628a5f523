r"""Distances between two sets of images, from their features: arithmetic on arrays, no files and no networks.

* Fréchet distance, |μ − μ_ref|² + tr(Σ + Σ_ref − 2(Σ·Σ_ref)^½) (Heusel et al., arXiv 1706.08500), by torchmetrics.
  Biased upwards at small n: compare at equal n only.
* The same with weights by which all classes that were asked for count alike (post-stratification). It estimates the
  same distance without the noise of how often seeds happen to ask for a class.
* Kernel distance (KID): squared maximum mean discrepancy with the cubic polynomial kernel (Bińkowski et al., arXiv
  1801.01401), by torchmetrics; mean and std over 50 subsets of 1,000. Unbiased.
* Precision, recall (Kynkäänniemi et al., arXiv 1904.06991), density, coverage (Naeem et al., arXiv 2002.09797), by prdc
  with k = 5, on at most 5,000 images of each side, chosen by a fixed seed: its time grows with the square.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...common.errors import ConfigError, RestartValueError

NEAREST, MOST = 5, 5000
SUBSETS, SUBSET = 50, 1000


@dataclass(frozen=True)
class Stats:
    """What a Fréchet distance needs of a reference: mu float64 [d], sigma float64 [d, d], and n images they are of."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int = 50_000


def equal_classes(labels: Tensor) -> Tensor:
    """Return weights float64 [n] that sum to 1, by which every class in `labels`, int64 [n], counts alike."""
    _, place, counts = labels.unique(return_inverse=True, return_counts=True)
    return 1 / (counts[place].double() * len(counts))


def stats_of(features: Tensor, weights: Tensor | None = None) -> Stats:
    """Return mean and unbiased covariance in float64 of features [n, d], n ≥ 2.

    With `weights` [n], which sum to 1, they are those of the weighted samples. Raises RestartValueError if n < 2.
    """
    if len(features) < 2:
        raise RestartValueError(f"a Fréchet distance needs at least 2 images, got {len(features)}")
    values = features.double()
    w = torch.full((len(values),), 1 / len(values), dtype=torch.float64) if weights is None else weights
    mu = w @ values
    centred = values - mu
    return Stats(mu.numpy(), ((centred.T * w) @ centred / (1 - (w**2).sum())).numpy(), len(values))


def frechet(reference: Stats, found: Stats, extractor: nn.Module) -> float:
    """Return the Fréchet distance of two statistics, by torchmetrics in float64; it wants to be given an extractor."""
    FrechetDistance, _ = _metrics()
    metric = FrechetDistance(feature=extractor, normalize=False)
    metric.orig_dtype = torch.float64  # what `update` would set; its sums are given instead, as float64
    for side, stats in (("real", reference), ("fake", found)):
        mu, sigma = torch.from_numpy(stats.mu), torch.from_numpy(stats.sigma)
        setattr(metric, f"{side}_features_sum", mu * stats.n)
        setattr(metric, f"{side}_features_cov_sum", sigma * (stats.n - 1) + stats.n * torch.outer(mu, mu))
        setattr(metric, f"{side}_features_num_samples", torch.tensor(stats.n))
    return float(_computed(metric))


def kid(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Return kid and kid_std of features [N, d] and [n, d]; the subsets are chosen by a fixed seed."""

    class Given(nn.Module):
        num_features = real.shape[1]

        def forward(self, x: Tensor) -> Tensor:
            return x

    _, KernelDistance = _metrics()
    size = min(SUBSET, len(real), len(fake))
    with warnings.catch_warnings():  # it warns of the features that `update` would store; `update` is not called
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
        metric = KernelDistance(feature=Given(), subsets=SUBSETS, subset_size=size, normalize=False)
    metric.real_features, metric.fake_features = [real.double()], [fake.double()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, std = _computed(metric)
    return {"kid": float(mean), "kid_std": float(std)}


def manifolds(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Return precision, recall, density and coverage of features [N, d] and [n, d]; {} for too few images."""
    try:
        from prdc import compute_prdc
    except ImportError:
        raise ConfigError(
            "precision and recall need prdc; install it with: pip install 'restart-sampling[bench]'"
        ) from None
    rng = np.random.default_rng(0)
    sides = [
        x[torch.from_numpy(np.sort(rng.choice(len(x), min(MOST, len(x)), replace=False)))].numpy() for x in (real, fake)
    ]
    if min(map(len, sides)) <= NEAREST + 1:  # prdc looks one neighbour further
        return {}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # prdc prints the number of samples
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn's, about joblib
        found = compute_prdc(*sides, nearest_k=NEAREST)
    return {name: float(value) for name, value in found.items()}


def _computed(metric: Any) -> Any:
    """Return the value of a metric, without its advice on how to fill it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return metric.compute()


def _metrics() -> tuple[Any, Any]:
    """Return torchmetrics' Fréchet and kernel distances. Raises ConfigError, which says how to install them."""
    try:
        from torchmetrics.image import fid, kid
    except ImportError:
        raise ConfigError(
            "quality needs torchmetrics; install it with: pip install 'restart-sampling[bench]'"
        ) from None
    return fid.FrechetInceptionDistance, kid.KernelInceptionDistance
