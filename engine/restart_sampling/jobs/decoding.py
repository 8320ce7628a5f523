r"""Latents of a job to images, beside the sampler.

A thread of its own decodes a batch of latents, a few at a time, while the sampler draws the next batch; on a GPU it
has a stream of its own. So the sampler waits only if decoding a batch takes longer than drawing one, which no order of
the work could change.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.checks import integer
from ..common.devices import made_current
from ..common.errors import RestartValueError
from ..models.denoiser import Denoiser
from .record import DECODE_MOST


@dataclass(frozen=True)
class Decoding:
    """What decodes a job's latents; small, and pickled by Ray.

    Attributes:
        folder: of the VAE. sha256: of its config and weights.
        encoder: what the model's file says of its encoder, None for the VAE's own config.
        batch: latents that are decoded at once, 1 to 4.
        shape: (C, H, W) of the images.
    """

    folder: str
    sha256: str
    encoder: dict[str, Any] | None
    batch: int
    shape: tuple[int, int, int]

    @classmethod
    def read(cls, folder: str | Path, denoiser: Denoiser, batch: int = DECODE_MOST) -> Decoding:
        """Check the VAE in a folder against a model.

        Raises:
            RestartValueError: it does not fit the model's latents. CheckpointError: the folder holds none.
        """
        from ..integrations.diffusers.vae import digest, folder_of

        batch = integer("decode_batch", batch, 1, DECODE_MOST, error=RestartValueError)
        path, shape = folder_of(folder), decoded_shape(folder, denoiser)
        return cls(str(path.resolve()), digest(path), denoiser.info.get("encoder"), batch, shape)

    def record(self) -> dict[str, Any]:
        """Return what run.json says: what decides the images, and where the VAE was."""
        return {"vae_sha256": self.sha256, "vae_folder": self.folder, "decode_batch": self.batch}

    def thread(self, pixels: str, take: Callable[[Tensor], Callable[[], np.ndarray]], device: str) -> DecodingThread:
        """Return the thread that decodes for one worker; `take` copies to the host, as of `pixels.HostRing`."""
        from ..integrations.diffusers.vae import Decoder, open_vae

        return DecodingThread(Decoder(open_vae(self.folder, device), self.encoder, self.batch), pixels, take)


def decoded_shape(folder: str | Path, denoiser: Denoiser) -> tuple[int, int, int]:
    """Return (C, H, W) of the images that the VAE in a folder makes of a denoiser's samples; raises as `Decoding.read`.

    Of the VAE its config alone is read.
    """
    from ..integrations.diffusers.vae import config_of, folder_of, image_shape, kind_of

    config = config_of(folder_of(folder))
    return image_shape(kind_of(config["_class_name"]), config, denoiser.info.get("encoder"), denoiser.shape)


class DecodingThread:
    """Decodes batches in a thread. `take` has the form of `HostRing.take`, so what draws does not know the difference.

    Args:
        decoder: latents → images in [0, 1], and those → pixels. pixels: "uint8" or "float32" of the images.
        take: copies images to the host.
    """

    def __init__(self, decoder: Any, pixels: str, take: Callable[[Tensor], Callable[[], np.ndarray]]) -> None:
        self.decoder, self.pixels, self._take = decoder, pixels, take
        self._thread = ThreadPoolExecutor(1, "restart-decoder")
        self._streams: dict[torch.device, Any] = {}

    def take(self, x: Tensor) -> Callable[[], np.ndarray]:
        """Start decoding latents float32 [n, C, h, w]; return a function that returns their pixels at a later time."""
        drawn = None
        if x.device.type == "cuda":
            with made_current(x.device):
                drawn = torch.cuda.Event()
                drawn.record(torch.cuda.current_stream(x.device))
        return self._thread.submit(self._decode, x, drawn).result

    def _decode(self, x: Tensor, drawn: Any) -> np.ndarray:
        """Decode a batch; in the thread."""
        if drawn is None:
            return self._host(x)
        stream = self._streams.setdefault(x.device, torch.cuda.Stream(x.device))
        with torch.cuda.stream(stream):
            stream.wait_event(drawn)
            x.record_stream(stream)
            return self._host(x)

    def _host(self, x: Tensor) -> np.ndarray:
        images = self.decoder(x)
        if self.pixels == "float32":
            return self._take(images)()
        return np.asarray(self.decoder.pixels(images).cpu().numpy())
