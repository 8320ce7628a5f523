r"""How good a plan is: the Fréchet distance of the images it draws, with the same seeds for every plan.

Where the reference has as many images of each class, it is the distance with all classes weighted alike
(measure/evaluator.py).

Common random numbers: all plans start from the same latents and inject the same noise bits, so that most of the
sampling error of the distance is shared and drops out of a comparison. The seeds are not those a plan is reported on
(confirm.py), because the best of many is partly the luckiest.

A quarter of the images is drawn first. Where its distance is FAR times that of a finished plan which costs no more, the
rest is not drawn; such a plan is given up and has no value, because distances of different numbers of images cannot be
compared.
"""

from __future__ import annotations

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
from ..measure import image_cache
from ..measure.engine import EngineRunner
from ..measure.quality import block_of

FAR = 1.5
FIRST = 4  # 1/FIRST of the images is drawn first
LEAST = 100  # images of that first part; with fewer, the distance says too little


class Evaluator(Protocol):
    """The part of `measure.evaluator.Evaluator` that a search uses: names for rows, distances of uint8 [n, C, H, W]."""

    features: str
    reference: str
    balanced: bool

    def fd(self, images: Tensor) -> float: ...
    def fd_balanced(self, images: Tensor, labels: Tensor) -> float: ...


@dataclass(frozen=True)
class Value:
    """The distances of a plan: `fd` of all images, None if the plan was given up; `first` of the first part, if any."""

    fd: float | None
    first: float | None = None


class Objective:
    """Draws plans and measures them.

    Args:
        denoiser: the model. evaluator: measures the distance.
        n: images of a plan. first_seed: the first of their n seeds.
        batch, dtype: of the sampler. cache: the folder of drawn images. halving: give up plans that are far off.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        evaluator: Evaluator,
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
        self.denoiser, self.evaluator = denoiser, evaluator
        self.n, self.first_seed = n, first_seed
        self.batch, self.dtype = batch, dtype
        self.cache = cache or image_cache.default_folder()
        self.first = n // FIRST if halving and n // FIRST >= LEAST else 0

    def bound(self, plan: Plan) -> Plan:
        """Return the plan as this network runs it. Raises ConfigError if it cannot."""
        return bind(plan, self.denoiser.parameterization).plan

    def key(self, plan: Plan) -> str:
        """Return a hash of the table that is run: equal for plans that draw the same images."""
        return bind(plan, self.denoiser.parameterization).key

    def value(self, plan: Plan, far: Callable[[float], bool] = lambda first: False) -> Value:
        """Return the distance on the seeds of the search; `far` decides by that of the first part whether to stop.

        Raises NonFiniteError if samples are NaN or infinite.
        """
        runner = EngineRunner(self.denoiser, plan, self.batch, self.dtype)
        sha = str(self.denoiser.info.get("sha256", ""))
        whole = image_cache.path_of(self.cache, sha, runner.key, self.first_seed, self.n)
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
        """Return the distance on n other seeds, from `first_seed` on; the images go into the cache."""
        runner = EngineRunner(self.denoiser, plan, self.batch, self.dtype)
        return self._fd(*self._images(runner, first_seed, n))

    def _fd(self, images: Tensor, labels: Tensor | None = None) -> float:
        if labels is not None and self.evaluator.balanced:
            return self.evaluator.fd_balanced(images, labels)
        return self.evaluator.fd(images)

    def _images(self, runner: EngineRunner, first: int, n: int) -> tuple[Tensor, ...]:
        """Return (images, classes) or, without classes, (images,)."""
        images, labels = block_of(self.denoiser, runner, self.cache, first, n, self.batch)
        return (images,) if labels is None else (images, labels)
