r"""Edits of a job: the image that its samples begin with, and the one that they keep where a mask says so.

They are those of `Sampler.run` (sampler/edits.py), with images from files (images.py). What run.json says of them is
told in record.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..common.errors import RestartValueError
from ..plan.plan import Plan
from ..sampler import pfgmpp
from ..sampler.edits import asked
from ..sampler.sampler import Sampler
from ..sampler.seeds import Seeds
from .images import Images, Shape, read_images
from .record import IMAGES


@dataclass(frozen=True)
class Edits:
    """The edits of a job, checked but for what depends on the plan.

    Attributes:
        images: by purpose: "start", "known", "mask".
        options: strength, sigma and paste, as far as they were given.
        seeds: of the job, in the order of the images where there is one for each.
        per_image: samples of each image, where there is one for each input: image i has the seeds i·n … i·n + n − 1 of
            these.
    """

    images: dict[str, Images]
    options: dict[str, Any]
    seeds: Seeds
    per_image: int = 1

    @classmethod
    def read(cls, given: Mapping[str, Any], seeds: Seeds, shape: Shape, per_image: int = 1) -> Edits | None:
        """Return the edits that a job is given by name, or None if there are none.

        Args:
            given: start, strength, sigma, known, mask and paste, None for what is not given; images are files, arrays
                or tensors.
            seeds: of the job, in their order.
            shape: of one sample.
            per_image: samples of each image, where there is one for each.

        Raises:
            RestartTypeError, RestartValueError: one sentence about what cannot be read, does not fit or go together.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if given == {"paste": "initial"} or not given:
            return None
        images = {name: read_images(name, given[name], shape) for name in IMAGES if name in given}
        for one in images.values():
            one.check(len(seeds), per_image)
        options = {name: value for name, value in given.items() if name not in IMAGES}
        found = cls(images, options, seeds, per_image)
        if "start" in images and ("strength" in given) == ("sigma" in given):
            which = "both" if "sigma" in given else "neither"
            raise RestartValueError(
                f"start needs one of strength (--strength) and sigma (--start-sigma), which say where the run begins, "
                f"got {which}"
            )
        if "paste" in found.options and "known" not in images:
            raise RestartValueError("paste says which noise the known image gets; give known and mask as well")
        asked(found.of(seeds[:1].numpy()), "a job").read(1, shape, torch.device("cpu"))
        return found

    def of(self, seeds: np.ndarray) -> dict[str, Any]:
        """Return the arguments of `Sampler.iterate` for some seeds of the job, int64 [n]."""
        places = self._places(seeds) if self.each else seeds
        return {**self.options, **{name: images.of(places) for name, images in self.images.items()}}

    @property
    def each(self) -> list[str]:
        """The purposes for which there is an image for each seed."""
        return [name for name, images in self.images.items() if images.each]

    def plan(self, sampler: Sampler) -> Plan:
        """Return what a sampler's plan runs of itself: from the start image on, if there is one.

        Raises:
            RestartError: the plan or the network cannot run with these edits.
        """
        edits = asked(self.of(self.seeds[:1].numpy()), "a job").read(1, sampler.denoiser.shape, torch.device("cpu"))
        if sampler.denoiser.augmented_dim is not None:
            pfgmpp.check(edits.variant)
        return sampler.workspace.bind(sampler.plan, edits).plan

    def record(self) -> dict[str, Any]:
        """Return the entries of run.json."""
        sums: dict[str, Any] = {name: images.sha256 for name, images in self.images.items()}
        files = {name: images.path for name, images in self.images.items() if images.path is not None}
        options = {name: value if name == "paste" else float(value) for name, value in self.options.items()}
        if "known" in sums:
            options.setdefault("paste", "initial")
        return {"edits": sums | options | ({"each": self.each} if self.each else {}), "edit_files": files}

    @cached_property
    def _ascending(self) -> tuple[np.ndarray, np.ndarray]:
        """The seeds, ascending, and the place of each in the job."""
        seeds = self.seeds.numpy()
        order = np.argsort(seeds)
        return seeds[order], order

    def _places(self, seeds: np.ndarray) -> np.ndarray:
        ascending, order = self._ascending
        places: np.ndarray = order[np.searchsorted(ascending, seeds)] // self.per_image
        return places
