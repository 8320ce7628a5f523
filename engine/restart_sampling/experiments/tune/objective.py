r"""What a plan is worth: the Fréchet distance of the images it draws, with the same seeds for every plan.

Where the reference has as many images of each class, it is the distance with all classes weighted alike
(bench/judge.py).

Common random numbers: all plans start from the same latents and inject the same noise bits, so that most of the
sampling error of the distance is shared and drops out of a comparison. The seeds are not those a plan is reported on
(confirm.py), because the best of many is partly the luckiest.

A quarter of the images is drawn first. Where its distance is FAR times that of a finished plan which costs no more, the
rest is not drawn; such a plan is given up and has no value, because distances of different numbers of images cannot be
compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...common.errors import RestartValueError
from ...models.denoiser import Denoiser
from ...plan.plan import Plan
from ...sampler.table import bind
from ..measure import image_cache as kept
from ..measure.engine import EngineRunner
from ..measure.quality import block_of

FAR = 1.5
FIRST = 4  # 1/FIRST of the images is drawn first
LEAST = 100  # images of that first part; with fewer, the distance says too little


class Judge(Protocol):
    """What is needed of `bench.judge.Judge`: names for the rows, and distances of uint8 images [n, C, H, W]."""

    features: str
    reference: str
    balanced: bool

    def fd(self, images: Tensor) -> float: ...
    def fd_balanced(self, images: Tensor, labels: Tensor) -> float: ...


@dataclass(frozen=True)
class Value:
    """`fd` of all images, None where they were not all drawn; `first` is that of the first part, None without one."""

    fd: float | None
    first: float | None = None


class Objective:
    """Draws and judges plans.

    Args:
        denoiser: the model. judge: the distance. n: images of a plan. first_seed: seeds are first_seed … first_seed + n
            − 1.
        batch, dtype: of the sampler. cache: folder where images are kept. halving: give up plans that are far off.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        judge: Judge,
        *,
        n: int,
        first_seed: int,
        batch: int = 64,
        dtype: str = "fp32",
        cache: Path | None = None,
        halving: bool = True,
    ) -> None:
        if n < 2:
            raise RestartValueError(f"a Fréchet distance needs at least 2 images, got n = {n}")
        self.denoiser, self.judge = denoiser, judge
        self.n, self.first_seed = n, first_seed
        self.batch, self.dtype = batch, dtype
        self.cache = cache or kept.default_folder()
        self.first = n // FIRST if halving and n // FIRST >= LEAST else 0

    def bound(self, plan: Plan) -> Plan:
        """The plan as this network runs it. ConfigError where it cannot."""
        return bind(plan, self.denoiser.parameterization).plan

    def key(self, plan: Plan) -> str:
        """Equal for plans that draw the same, however they are written: a hash of the table that is run."""
        table = bind(plan, self.denoiser.parameterization)
        parts = (table.coef, table.code, table.sigma)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:12]

    def value(self, plan: Plan, far: Callable[[float], bool] = lambda first: False) -> Value:
        """The distance on this objective's seeds; `far` says of the first part's distance whether to stop there.

        Raises NonFiniteError where samples are NaN or infinite.
        """
        runner = EngineRunner(self.denoiser, plan, self.batch, self.dtype)
        sha = str(self.denoiser.info.get("sha256", ""))
        whole = kept.path_of(self.cache, sha, runner.key, self.first_seed, self.n)
        if not self.first or (sha and whole.exists()):
            drawn = self._images(runner, self.first_seed, self.n)
            first = self._fd(*(some[: self.first] for some in drawn)) if self.first else None
            return Value(self._fd(*drawn), first)
        part = self._images(runner, self.first_seed, self.first)
        first = self._fd(*part)
        if far(first):
            return Value(None, first)
        rest = self._images(runner, self.first_seed + self.first, self.n - self.first)
        return Value(self._fd(*map(torch.cat, zip(part, rest, strict=True))), first)

    def fresh(self, plan: Plan, first_seed: int, n: int) -> float:
        """The distance on other seeds, n of them from `first_seed` on; the images are kept, as the benchmark's are."""
        runner = EngineRunner(self.denoiser, plan, self.batch, self.dtype)
        return self._fd(*self._images(runner, first_seed, n))

    def _fd(self, images: Tensor, labels: Tensor | None = None) -> float:
        if labels is not None and self.judge.balanced:
            return self.judge.fd_balanced(images, labels)
        return self.judge.fd(images)

    def _images(self, runner: EngineRunner, first: int, n: int) -> tuple[Tensor, ...]:
        """(images, classes) or, without classes, (images,)."""
        images, labels = block_of(self.denoiser, runner, self.cache, first, n, self.batch)
        return (images,) if labels is None else (images, labels)
