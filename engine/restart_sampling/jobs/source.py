r"""The source of a job's samples: a sampler, and what is done when it fails.

* Out of memory: the same seeds again with half the batch size. With one sample it is an error.
* NaN or infinite samples: drawn once more in float32, without compiling or capturing; what fails again has no image.
* Few samples on a CPU: oneDNN rounds batches below SMALLEST otherwise than larger ones, and with several threads the
  rounding depends on how it divides the work. So small batches are padded with samples whose output is discarded, and
  each slice of a batch runs on one thread (`Sampler(batch_invariant=True)`): the bundled model's images then do not
  depend on the batch, to the last bit."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..common.checks import integer
from ..common.errors import BackendError, RestartValueError
from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from ..sampler.sampler import Progress, Sampler
from ..sampler.seeds import Seeds
from .collect import Drawn
from .decoding import Decoding, DecodingThread
from .edits import Edits
from .inputs.inputs import Inputs
from .pixels import HostRing

SMALLEST = 8


class SamplerSource:
    """Draws with a `Sampler`, and again with another one after a failure; see the module.

    Args:
        denoiser, plan: what is drawn.
        batch: the most samples of a batch.
        options: of the `Sampler`: backend, graph, compile, dtype, device.
        label: class of all samples; None draws each from its seed.
        pixels: "uint8" or "float32".
        note: called with (event, details) when something was done about a failure, or an input is not read whole.
        callback: called by the sampler after every evaluation, for progress within a batch.
        edits: of the job: what its samples begin with and keep.
        decoding: of the job: what decodes its latents; None keeps the samples as they are drawn.
        inputs: of the job: what each sample is told, and which noise it has.

    Attributes:
        runs: the plan as it runs.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        plan: Plan,
        batch: int,
        options: dict[str, Any],
        label: int | None = None,
        pixels: str = "uint8",
        note: Callable[[str, dict[str, Any]], None] = lambda event, details: None,
        callback: Callable[[Progress], None] | None = None,
        edits: Edits | None = None,
        decoding: Decoding | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.inputs = inputs
        self.denoiser, self.plan, self.label, self.pixels, self.edits = denoiser, plan, label, pixels, edits
        self.options, self.note, self.callback = options, note, callback
        batch = integer("batch_size", batch, 1, error=RestartValueError)
        self.batch = batch
        self.sampler = self._make(batch)
        if inputs is not None:
            inputs.source.begin(self.sampler.device, note)
        ring = HostRing(pixels)
        device = str(self.sampler.device)
        self.ring: HostRing | DecodingThread = ring if decoding is None else decoding.thread(pixels, ring.take, device)
        self.runs = self.sampler.plan if edits is None else edits.plan(self.sampler)
        self.device, self.dtype = str(self.sampler.device), str(options.get("dtype", "fp32"))
        self._careful: Sampler | None = None

    def _make(self, batch: int) -> Sampler:
        device = torch.device(self.options.get("device") or self.denoiser.device)
        smallest = SMALLEST if device.type == "cpu" else 1
        return Sampler(self.denoiser, self.plan, max(batch, smallest), **{**self.options, "batch_invariant": True})

    def draw(self, seeds: Seeds) -> Drawn:
        """Draw the samples of at most `batch` seeds."""
        failed = None
        try:
            return self._draw(seeds)
        except torch.OutOfMemoryError as error:
            failed = str(error).split("\n")[0]
        # Outside the except block: the traceback holds the tensors of the failed batch.
        if self.batch == 1:
            raise BackendError(f"one sample does not fit into the memory of {self.device} ({failed})")
        self._shrink(failed)
        parts: list[Drawn] = []
        pixels: list[np.ndarray] = []
        while seeds:  # in pieces of the current batch size, which may shrink again on the way
            n = min(self.batch, len(seeds))
            parts.append(self.draw(seeds[:n]))
            pixels.append(parts[-1].fetch())  # before the next piece is drawn: its pinned buffer will be used again
            seeds = seeds[n:]
        labels = [part.labels for part in parts if part.labels is not None]
        return Drawn(
            np.concatenate([part.seeds for part in parts]),
            np.concatenate(labels) if labels else None,
            lambda: np.concatenate(pixels),
            frozenset().union(*(part.nonfinite for part in parts)),
        )

    def _shrink(self, why: str) -> None:
        """Make a sampler of half the batch size in the place of the one that ran out of memory."""
        before, self.batch = self.batch, self.batch // 2
        self.note("out of memory", {"batch": before, "next": self.batch, "error": why})
        del self.sampler
        self._careful = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.sampler = self._make(self.batch)

    def _draw(self, seeds: Seeds) -> Drawn:
        """Draw seeds, and those whose samples are not finite once more."""
        values = seeds.numpy()
        x, labels, bad = self._sample(self.sampler, values, self.callback)
        if bad:
            again = np.array(sorted(bad))
            better, _, still = self._sample(self._fallback(), again)
            self.note("not finite", {"seeds": again.tolist(), "still": sorted(still)})
            place = {int(seed): i for i, seed in enumerate(values)}
            for i, seed in enumerate(again.tolist()):
                x[place[seed]] = better[i] if seed not in still else 0.0
            bad = still
        return Drawn(values, labels, self.ring.take(x), frozenset(bad))

    def _sample(
        self, sampler: Sampler, values: np.ndarray, callback: Callable[[Progress], None] | None = None
    ) -> tuple[torch.Tensor, np.ndarray | None, set[int]]:
        """Return samples, labels and the seeds that are not finite; batches below SMALLEST are padded on a CPU."""
        n = len(values)
        seeds = torch.from_numpy(values)
        missing = SMALLEST - n if sampler.device.type == "cpu" else 0
        if missing > 0:
            seeds = torch.cat([seeds, seeds[-1:].expand(missing)])
        told = {} if self.edits is None else self.edits.of(seeds.numpy())
        if self.inputs is not None:
            told["conditions"] = self.inputs.told(seeds.numpy(), sampler.device) or None
            seeds = torch.from_numpy(self.inputs.noise(seeds.numpy()))
        parts = list(sampler.iterate(seeds, self.label, callback=callback, **told))
        order = torch.cat([part.index for part in parts]).argsort()
        x = torch.cat([part.x for part in parts])[order.to(parts[0].x.device)][:n]
        found = [part.labels for part in parts if part.labels is not None]
        labels = torch.cat(found)[order][:n].numpy() if found else None
        bad = {int(f["seed"]) for part in parts for f in part.failures}
        if bad and self.inputs is not None:  # whose seeds are those of the noise, which several samples may share
            finite = torch.isfinite(x).flatten(1).all(1).cpu().numpy()
            bad = {int(seed) for seed in values[~finite]}
        return x, labels, bad

    def _fallback(self) -> Sampler:
        """Return the sampler for samples that became NaN or infinite."""
        if self._careful is None:
            careful = {**self.options, "dtype": "fp32", "compile": "off", "graph": "off", "batch_invariant": True}
            self._careful = Sampler(self.denoiser, self.plan, max(SMALLEST, min(self.batch, 16)), **careful)
        return self._careful
