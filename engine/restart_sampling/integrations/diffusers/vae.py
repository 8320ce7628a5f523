r"""Latents to images: a VAE of diffusers as the decoder of a latent model.

Two conventions are in use, and the model's file says which is its own:

    EDM2           z = (x − bias)/scale, the statistics of its encoder, and the VAE gives pixels in [0, 1];
                   8-bit pixels are ⌊255·y⌋
    diffusers      z = x·std/scaling_factor + mean, or x/scaling_factor + shift_factor, and the VAE gives [−1, 1];
                   8-bit pixels are 255·y rounded

with x the latents as they are sampled (arXiv 2312.02696, appendix C; arXiv 2112.10752).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...common.checks import either, integer, shown
from ...common.errors import BackendError, CheckpointError, RestartValueError
from ...common.files import file_sha256
from ...common.strict_json import loads
from .weight_files import only_variant

CONFIG = "config.json"
MOST = 4  # latents at once: the activations of a decoder are far larger than its latents


class Kind(NamedTuple):
    """What a class of autoencoders calls its sizes.

    Attributes:
        channels: of the latents, the entry of its config. blocks: the entry with an element for each halving, and one
            more if `and_one`.
        images: entry with the channels of images. frames: whether latents are videos, here of one frame.
    """

    channels: str
    blocks: str
    and_one: bool
    images: str
    frames: bool = False

    def factor(self, config: Mapping[str, Any]) -> int:
        """Return how many pixels of a side make one of the latents."""
        return int(2 ** (len(config[self.blocks]) - self.and_one))


KINDS = {
    "AutoencoderKL": Kind("latent_channels", "block_out_channels", True, "out_channels"),
    "AutoencoderDC": Kind("latent_channels", "encoder_block_out_channels", True, "in_channels"),
    "AutoencoderKLQwenImage": Kind("z_dim", "temperal_downsample", False, "input_channels", frames=True),
}


def kind_of(vae: Any) -> Kind:
    """Return the kind of an autoencoder, or of one by its class's name. Raises BackendError for one that is unknown."""
    name = vae if isinstance(vae, str) else type(vae).__name__
    if name not in KINDS:
        raise BackendError(f"latents are decoded by an {either(KINDS)}, got {shown(name)}")
    return KINDS[name]


class Decoder:
    """The decoder of latents.

    Args:
        vae: an autoencoder of diffusers, of one of the classes in KINDS.
        encoder: what a model's file says of its encoder, `denoiser.info["encoder"]`; None for the VAE's own config.
        batch_size: latents that are decoded at once.

    Raises:
        RestartValueError: `encoder` is none of a VAE, or does not fit its latents.
    """

    def __init__(self, vae: Any, encoder: Mapping[str, Any] | None = None, batch_size: int = MOST) -> None:
        self.vae, self.batch_size = vae, integer("batch_size", batch_size, 1, error=RestartValueError)
        self.kind = kind_of(vae)
        check_encoder(self.kind, vae.config, encoder)
        self.scale: Tensor | None = None
        self.bias: Tensor | None = None
        if encoder is not None:
            self.scale, self.bias = (torch.tensor(encoder[name]).view(1, -1, 1, 1) for name in ("scale", "bias"))

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Return images float32 [n, 3, H, W] in [0, 1] of latents [n, C, h, w]."""
        vae, c = self.vae, self.vae.config
        if self.scale is not None and self.bias is not None:
            latents = (latents.float() - self.bias.to(latents.device)) / self.scale.to(latents.device)
        else:
            mean, std = c.get("latents_mean"), c.get("latents_std")
            if mean is not None and std is not None:
                mean, std = (
                    torch.tensor(v, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1) for v in (mean, std)
                )
                latents = latents * std / c.get("scaling_factor", 1.0) + mean
            else:
                latents = latents / c.scaling_factor + (c.get("shift_factor") or 0.0)
        kept = vae.dtype
        upcast = kept == torch.float16 and bool(c.get("force_upcast"))  # SDXL's decoder overflows in float16
        if upcast:
            vae.to(torch.float32)
        try:
            parts = [self._decoded(z.to(vae.dtype)).float() for z in latents.split(self.batch_size)]
        finally:
            if upcast:
                vae.to(kept)
        images = torch.cat(parts)
        return (images if self.scale is not None else images / 2 + 0.5).clamp(0, 1)

    def _decoded(self, z: Tensor) -> Tensor:
        if self.kind.frames:
            return self.vae.decode(z.unsqueeze(2), return_dict=False)[0][:, :, 0]
        return self.vae.decode(z, return_dict=False)[0]

    def pixels(self, images: Tensor) -> Tensor:
        """Return pixels uint8 [n, H, W, C] of images float32 [n, C, H, W] in [0, 1]."""
        y = images * 255
        return (y if self.scale is not None else y.round()).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def check_encoder(kind: Kind, config: Mapping[str, Any], encoder: Mapping[str, Any] | None) -> None:
    """Raise RestartValueError unless a VAE of this config decodes what a model's file says of its encoder."""
    if encoder is None:
        return
    if encoder.get("kind") != "vae":
        raise RestartValueError(f"this model draws images and no latents (encoder {shown(encoder)}); leave decode out")
    channels, given = config[kind.channels], len(encoder["scale"])
    if given != channels:
        raise RestartValueError(
            f"the VAE decodes {channels} channels, and the model's latents have {given}; give the VAE it was trained "
            f"with, {encoder.get('name', 'which its authors name')}"
        )


def image_shape(
    kind: Kind, config: Mapping[str, Any], encoder: Mapping[str, Any] | None, latents: tuple[int, ...]
) -> tuple[int, int, int]:
    """Return (C, H, W) of the images that a VAE of this config makes of latents (C, H, W).

    Raises:
        RestartValueError: it cannot decode them.
    """
    check_encoder(kind, config, encoder)
    channels = config[kind.channels]
    if len(latents) != 3 or latents[0] != channels:
        raise RestartValueError(f"the VAE decodes latents ({channels}, H, W), and the samples are {tuple(latents)}")
    factor = kind.factor(config)
    return config.get(kind.images, 3), latents[1] * factor, latents[2] * factor


def open_vae(folder: str | Path, device: str | torch.device = "cpu") -> Any:
    """Return the autoencoder in a folder, as `save_pretrained` writes it: float32, eval mode, on `device`.

    It may be the folder of a pipeline, whose subfolder vae is then taken. Without other weights those of a variant are
    read. Weights are read from safetensors alone, no code of the folder is run, and nothing is downloaded.

    Raises:
        BackendError: diffusers is not installed. CheckpointError: with the path, what is wrong with the folder.
    """
    path = folder_of(folder)
    try:
        import diffusers
    except ImportError:
        raise BackendError("decoding latents needs diffusers; pip install restart-sampling[diffusers]") from None
    try:
        vae = getattr(diffusers, config_of(path)["_class_name"]).from_pretrained(
            str(path),
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            variant=only_variant(path),
        )
    except Exception as error:  # diffusers raises whatever a damaged file leads to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{path}: diffusers cannot load this VAE ({reason})") from error
    return vae.to(device).eval().requires_grad_(False)


def folder_of(folder: str | Path) -> Path:
    """Return the folder of the VAE in a folder of a VAE or of a pipeline. Raises CheckpointError if it holds none."""
    path = Path(folder).expanduser()
    if (path / "model_index.json").is_file():
        path = path / "vae"
    config_of(path)
    return path


def config_of(path: Path) -> dict[str, Any]:
    """Return the config of the VAE in a folder of `folder_of`, its sizes checked. Raises CheckpointError."""
    try:
        config = loads((path / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not the folder of a VAE, as diffusers' save_pretrained writes it: cannot read {CONFIG} ({error})"
        ) from None
    name = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(config, dict) or name not in KINDS:
        raise CheckpointError(f"{path}: the _class_name in {CONFIG} must be {either(KINDS)}, got {shown(name)}")
    kind = KINDS[name]
    for size, value in ((kind.channels, config.get(kind.channels)), (kind.images, config.get(kind.images, 3))):
        integer(f"{path}: {size} in {CONFIG}", value, 1, error=CheckpointError)
    if not isinstance(config.get(kind.blocks), list):
        raise CheckpointError(f"{path}: {kind.blocks} in {CONFIG} must be a list of integers")
    return config


def digest(folder: str | Path) -> str:
    """Return a SHA-256 of the config and the weights of the VAE in a folder, hex."""
    path, sha256 = folder_of(folder), hashlib.sha256()
    for file in [*sorted(path.glob("*.safetensors")), path / CONFIG]:
        sha256.update(file_sha256(file).encode())
    return sha256.hexdigest()
