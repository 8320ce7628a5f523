r"""The judge: how good images are, against a reference.

* fd: Fréchet distance of features, |μ − μ_ref|² + tr(Σ + Σ_ref − 2(Σ·Σ_ref)^½) (Heusel et al., arXiv 1706.08500), by
  torchmetrics. Biased upwards at small n: compare at equal n only.
* fd_balanced: the same with samples weighted so that all classes that were asked for count alike, where the reference
  has as many images of each class. It estimates the same distance without the noise of how often seeds happen to ask
  for a class (post-stratification), and is the one to rank samplers by.
* kid: squared maximum mean discrepancy with the cubic polynomial kernel (Bińkowski et al., arXiv 1801.01401), by
  torchmetrics; mean and std over 50 subsets of 1,000. Unbiased.
* precision, recall (Kynkäänniemi et al., arXiv 1904.06991), density, coverage (Naeem et al., arXiv 2002.09797), by prdc
  with k = 5, on at most 5,000 images of each side, chosen by a fixed seed: its time grows with the square.
* accuracy: share of images that a classifier puts into the class that was asked for.

With a reference of statistics alone (mu, sigma) there is only fd, fd_balanced and accuracy. The shipped extractors come
with those of the Fashion-MNIST test set, which stand in where the data set is not on this machine."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...common.errors import CheckpointError, ConfigError, RestartTypeError, RestartValueError
from ...common.files import NPZ_DAMAGE
from . import shipped
from .features import Features, named_features

if TYPE_CHECKING:
    from .image_sets import ImageSet

CHUNK = 500
NEAREST, MOST = 5, 5000
SUBSETS, SUBSET = 50, 1000


@dataclass(frozen=True)
class Stats:
    """What a Fréchet distance needs of a reference: mu float64 [d], sigma float64 [d, d], and n images they are of."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int = 50_000


class Judge:
    """Features and a reference, loaded once.

    Args:
        features: extractor; reference: uint8 images [N, C, H, W] or `Stats`; name: of the reference, for rows.
        classifier: uint8 [n, C, H, W] → logits, for accuracy; or None.
        balanced: the reference has equally many images of every class that may be asked for.
    """

    def __init__(
        self,
        features: Features,
        reference: Tensor | Stats,
        classifier: nn.Module | None = None,
        name: str = "reference",
        balanced: bool = False,
    ) -> None:
        self.extractor, self.classifier, self.reference = features, classifier, name
        self.balanced = balanced
        self.features = features.name
        self.perfect: tuple[Tensor, Tensor] | None = None  # images and classes of the training set: a perfect sampler's
        self.note = ""  # what is left out, and why
        self.real: Tensor | None = None  # features of the reference's images
        if isinstance(reference, Stats):
            d = features.num_features
            if reference.mu.shape != (d,) or reference.sigma.shape != (d, d):
                raise RestartValueError(
                    f"reference {name!r} is of {reference.mu.shape} features and {features.name!r} gives {d}; use the "
                    f"extractor that the reference was made with"
                )
            self.stats = reference
        else:
            self.real = self.embed(reference)
            self.stats = stats_of(self.real)

    def embed(self, images: Tensor) -> Tensor:
        """Features float32 [n, d] of uint8 images [n, C, H, W]."""
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise RestartTypeError(f"images must be uint8 [n, C, H, W], got {images.dtype} {tuple(images.shape)}")
        return torch.cat([self.extractor(part) for part in images.split(CHUNK)])

    def fd(self, images: Tensor) -> float:
        """Fréchet distance of uint8 images [n, C, H, W], n ≥ 2, to the reference."""
        return self.fd_of(stats_of(self.embed(images)))

    def fd_balanced(self, images: Tensor, labels: Tensor) -> float:
        """:meth:`fd` with weights by which every class in `labels`, int64 [n], counts alike."""
        return self.fd_of(stats_of(self.embed(images), equal_classes(labels)))

    def fd_of(self, found: Stats) -> float:
        """Fréchet distance of statistics to the reference, by torchmetrics in float64."""
        metric = _torchmetrics().FrechetInceptionDistance(feature=self.extractor, normalize=False)
        metric.orig_dtype = torch.float64  # what `update` would set; its sums are given instead, as float64
        for side, stats in (("real", self.stats), ("fake", found)):
            mu, sigma = torch.from_numpy(stats.mu), torch.from_numpy(stats.sigma)
            setattr(metric, f"{side}_features_sum", mu * stats.n)
            setattr(metric, f"{side}_features_cov_sum", sigma * (stats.n - 1) + stats.n * torch.outer(mu, mu))
            setattr(metric, f"{side}_features_num_samples", torch.tensor(stats.n))
        return float(_computed(metric))

    def measure(self, images: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """All that can be had: fd, fd_balanced, kid, kid_std, precision, recall, density, coverage, accuracy.

        Args:
            images: uint8 [n, C, H, W]. labels: classes that were asked for, int64 [n], or None.
        """
        fake = self.embed(images)
        found = {"fd": self.fd_of(stats_of(fake))}
        if self.balanced and labels is not None:
            found["fd_balanced"] = self.fd_of(stats_of(fake, equal_classes(labels)))
        if self.real is not None:
            found |= kid(self.real, fake) | manifolds(self.real, fake)
        if self.classifier is not None and labels is not None and bool((labels >= 0).all()):
            guess = torch.cat([self.classifier(part).argmax(1) for part in images.split(CHUNK)])
            found["accuracy"] = float((guess == labels).double().mean())
        return found


def equal_classes(labels: Tensor) -> Tensor:
    """float64 [n] that sum to 1: weights of samples by which every class in `labels`, int64 [n], counts alike."""
    _, place, counts = labels.unique(return_inverse=True, return_counts=True)
    return 1 / (counts[place].double() * len(counts))


def stats_of(features: Tensor, weights: Tensor | None = None) -> Stats:
    """Mean and unbiased covariance in float64 of features [n, d]; with weights [n] that sum to 1, of weighted samples."""
    if len(features) < 2:
        raise RestartValueError(f"a Fréchet distance needs at least 2 images, got {len(features)}")
    values = features.double()
    w = torch.full((len(values),), 1 / len(values), dtype=torch.float64) if weights is None else weights
    mu = w @ values
    centred = values - mu
    return Stats(mu.numpy(), ((centred.T * w) @ centred / (1 - (w**2).sum())).numpy(), len(values))


def kid(real: Tensor, fake: Tensor) -> dict[str, float]:
    """KID of features [N, d] and [n, d] by torchmetrics, subsets of at most 1,000, chosen by a fixed seed."""
    from torch import nn

    class Given(nn.Module):
        num_features = real.shape[1]

        def forward(self, x: Tensor) -> Tensor:
            return x

    size = min(SUBSET, len(real), len(fake))
    with warnings.catch_warnings():  # it warns of the features it keeps; here there are none
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all")
        metric = _torchmetrics().KernelInceptionDistance(
            feature=Given(), subsets=SUBSETS, subset_size=size, normalize=False
        )
    metric.real_features, metric.fake_features = [real.double()], [fake.double()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mean, std = _computed(metric)
    return {"kid": float(mean), "kid_std": float(std)}


def manifolds(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Precision, recall, density and coverage of features by prdc."""
    try:
        import contextlib
        import io

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
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of scikit-learn about joblib; and it prints how many samples there are
        found = compute_prdc(*sides, nearest_k=NEAREST)
    return {name: float(value) for name, value in found.items()}


def judges_for(model: str, features: str | None = None, reference: str | Path | None = None) -> list[Judge]:
    """The judges of a model, one for each of `features`: names separated by commas, or "all" that are shipped."""
    if features is None:
        return [judge_for(model, None, reference)]
    return [judge_for(model, name, reference) for name in _names(features)]


def _names(features: str) -> list[str]:
    """The extractors of a list, each once; "all" stands for those that are shipped."""
    asked = [name.strip() for name in features.split(",") if name.strip()]
    names = [name for each in asked for name in (shipped.NAMES if each == "all" else (each,))]
    if not names:
        raise RestartValueError(f"--features names no extractor, got {features!r}; give one, or all")
    return list(dict.fromkeys(names))


def judges_of(features: str, reference: str | Path | None, images: ImageSet) -> list[Judge]:
    """The judges of images on the disk; without a reference, Fashion-MNIST's test set is it.

    ConfigError: the reference's images differ in shape from these.
    """
    known = None if reference is None else load_reference(Path(reference))
    judges = []
    for name in _names(features):
        network, label = named_features(name)
        classifier = shipped.classifier() if label in shipped.NAMES else None
        if known is None:
            judges.append(reference_judge(network, label, classifier))
            continue
        sample = images.sample()
        found, title = known
        if isinstance(found, Tensor) and found.shape[1:] != sample.shape:
            raise ConfigError(
                f"the reference has images of {list(found.shape[1:])}, and these are of {list(sample.shape)} [C, H, W]; "
                f"give a reference of the same size"
            )
        judges.append(Judge(Features(network, label, sample), found, classifier, title))
    return judges


def judge_for(model: str, features: str | None = None, reference: str | Path | None = None) -> Judge:
    """The judge of a model: the bundled one has features and a reference, others need both.

    Args:
        features: as `load_features` reads it. reference: an .npz with images (`arr_0`) or with `mu` and `sigma`.
    """
    bundled = model == shipped.MODEL
    if features is None and not bundled:
        raise ConfigError(
            f"quality of {model!r} needs --features (a shipped extractor, FILE.py:NAME, package.module:NAME or a TorchScript "
            f"file) and --reference (.npz)"
        )
    network, name = named_features(shipped.CLASSIFIER if features is None else features)
    own = name in shipped.NAMES
    classifier = shipped.classifier() if own and bundled else None
    if reference is not None:
        found, label = load_reference(Path(reference))
        sample = found[0] if isinstance(found, Tensor) else torch.zeros(_shape(model), dtype=torch.uint8)
        return Judge(Features(network, name, sample), found, classifier, label)
    if not bundled:
        raise ConfigError(f"quality of {model!r} needs --reference, an .npz with images (arr_0) or with mu and sigma")
    return reference_judge(network, name, classifier)


def reference_judge(network: nn.Module, name: str, classifier: nn.Module | None = None) -> Judge:
    """The judge by features `network`, called `name`, with Fashion-MNIST's test set as the reference.

    Where the data set is not on this machine, a shipped extractor has the statistics of it; `note` then says what is
    left out. ConfigError for other extractors."""
    from ..training.data import DataError, fashion_mnist

    try:
        images, _ = _tensors(fashion_mnist("test"))
        perfect = _tensors(fashion_mnist("train"))
    except DataError as error:
        if name not in shipped.NAMES:
            raise ConfigError(f"features {name!r} need the images of the reference, or --reference: {error}") from error
        sample = torch.zeros(shipped.SHAPE, dtype=torch.uint8)
        stats = Stats(*shipped.statistics(name))
        judge = Judge(Features(network, name, sample), stats, classifier, shipped.REFERENCE, balanced=True)
        judge.note = (
            "the reference is the shipped statistics; kernel distance, precision, recall and training images are left out: "
            f"{error}"
        )
        return judge
    judge = Judge(Features(network, name, images[0]), images, classifier, shipped.REFERENCE, balanced=True)
    judge.perfect = perfect
    return judge


def _tensors(data: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.asarray(data.images)), torch.from_numpy(np.asarray(data.labels)).long()


def load_reference(path: Path) -> tuple[Tensor | Stats, str]:
    """(images or statistics, a name with 12 digits of the file's SHA-256) of an .npz."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = set(arrays.files)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            label = f"{path.name} {digest}"
            if {"mu", "sigma"} <= names:
                n = int(arrays["n"]) if "n" in names else 50_000
                return Stats(arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64), n), label
            if "arr_0" in names and arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].ndim == 4:
                return torch.from_numpy(arrays["arr_0"].transpose(0, 3, 1, 2).copy()), label
    except NPZ_DAMAGE as error:
        raise CheckpointError(f"cannot read the reference {path}: {error}") from error
    raise CheckpointError(
        f"{path} holds {', '.join(sorted(names))}; a reference has mu and sigma, or arr_0 with uint8 images [N, H, W, C]"
    )


def save_stats(path: Path, stats: Stats) -> None:
    """Write statistics as EDM's reference files have them: mu, sigma, and n."""
    from ...common.files import write_atomically

    write_atomically(path, lambda file: np.savez(file, mu=stats.mu, sigma=stats.sigma, n=np.array(stats.n)))


def _shape(model: str) -> tuple[int, ...]:
    from ...models.registry import load_model as load

    return load(model).shape


def _computed(metric: Any) -> Any:
    """The value of a metric, without its advice on how to fill it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return metric.compute()


def _torchmetrics() -> Any:
    try:
        from torchmetrics.image import fid, kid
    except ImportError:
        raise ConfigError(
            "quality needs torchmetrics; install it with: pip install 'restart-sampling[bench]'"
        ) from None

    class Both:
        FrechetInceptionDistance = fid.FrechetInceptionDistance
        KernelInceptionDistance = kid.KernelInceptionDistance

    return Both
