r"""The config of an EDM network: its entries, those of its U-Net, and what must hold between them.

The defaults are those of the EDM checkpoint format, where a missing argument means the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from ...common.errors import CheckpointError
from ..schema import REQUIRED, Field, checked, complete
from .dhariwal_unet import DhariwalUNet
from .layers import ADM_HEAD_CHANNELS
from .song_unet import SongUNet

MAX_WIDTH = 4096  # channels of one level; the widest published network has 768
COMMON = {
    "img_resolution": Field("int", REQUIRED, (1, 4096)),
    "img_channels": Field("int", REQUIRED, (1, 64)),
    "label_dim": Field("int", 0, (0, 100_000)),
    "use_fp16": Field("bool", False),
}
SHARED = {  # arguments that both U-Nets take
    "augment_dim": Field("int", 0, (0, 64)),
    "model_channels": Field("int", REQUIRED, (4, MAX_WIDTH)),
    "channel_mult": Field("ints", REQUIRED, (1, 64)),
    "channel_mult_emb": Field("int", 4, (1, 64)),
    "num_blocks": Field("int", REQUIRED, (1, 32)),
    "attn_resolutions": Field("ints", REQUIRED, (1, 4096), (0, 8)),
    "dropout": Field("float", 0.10, (0.0, 1.0)),
    "label_dropout": Field("float", 0.0, (0.0, 1.0)),
}
EARLY = ("pfgm", "small")  # arguments of early PFGM++ sources, which change the formulas


class UNet(NamedTuple):
    """One of the two U-Nets: how it is built and called, its defaults of SHARED, its own arguments and its heads."""

    network: Callable[..., nn.Module]
    title: Callable[[Mapping[str, Any]], str]
    defaults: Mapping[str, Any]
    fields: Mapping[str, Field]
    head_channels: int | None = None  # of attention, where they are fixed


def _song(config: Mapping[str, Any]) -> str:
    """Return the name that EDM's papers and scripts have for a SongUNet, or its parts."""
    parts = [config[f"{part}_type"] for part in ("embedding", "encoder", "decoder")]
    if parts == ["positional", "standard", "standard"]:
        return "DDPM++"
    if parts == ["fourier", "residual", "standard"]:
        return "NCSN++"
    return f"SongUNet ({', '.join(parts)})"


UNETS = {
    "SongUNet": UNet(
        SongUNet,
        _song,
        {"model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4, "attn_resolutions": [16]},
        {
            "embedding_type": Field(("positional", "fourier"), "positional"),
            "channel_mult_noise": Field("int", 1, (1, 64)),
            "encoder_type": Field(("standard", "skip", "residual"), "standard"),
            "decoder_type": Field(("standard", "skip"), "standard"),
            "resample_filter": Field("floats", [1, 1], (-1e6, 1e6), (2, 16)),
        },
    ),
    "DhariwalUNet": UNet(
        DhariwalUNet,
        lambda config: "ADM",
        {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [32, 16, 8]},
        {},
        ADM_HEAD_CHANNELS,
    ),
}


def unet_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of the U-Net's class, from a complete config."""
    return {name: config[name] for name in (*SHARED, *UNETS[config["model_type"]].fields)}


def summary(config: Mapping[str, Any]) -> str:
    """Return the architecture in a few words: "DDPM++ (SongUNet), 128 channels × [2, 2, 2]"."""
    name = config["model_type"]
    return f"{UNETS[name].title(config)} ({name}), {config['model_channels']} channels × {config['channel_mult']}"


def complete_with(config: Mapping[str, Any], fields: Mapping[str, Field], default_unet: str) -> dict[str, Any]:
    """Return a copy of `config` with every default filled in, checked.

    Args:
        fields: the entries of its preconditioning. default_unet: the U-Net if the config names none.

    Raises:
        CheckpointError: names the entry, what was given and what is allowed.
    """
    model_type = Field(tuple(UNETS), default_unet)
    name = checked("model_type", config.get("model_type", default_unet), model_type)
    for old in EARLY:
        if config.get(old):
            raise CheckpointError(f"network config: {old}=true (an early PFGM++ variant) is not supported")
    unet = UNETS[name]
    shared = {key: field._replace(default=unet.defaults.get(key, field.default)) for key, field in SHARED.items()}
    result = complete(
        {key: value for key, value in config.items() if key not in EARLY},
        {"model_type": model_type, **COMMON, **shared, **fields, **unet.fields},
        f"{config['class_name']} with {name}",
    )
    _check_together(result, unet)
    return result


def _check_together(c: Mapping[str, Any], unet: UNet) -> None:
    """Check what single bounds cannot: levels and heads divide, sigma limits and filters are in order."""
    factor = 2 ** (len(c["channel_mult"]) - 1)
    if c["img_resolution"] % factor:
        raise CheckpointError(
            f"network config: img_resolution {c['img_resolution']} must be a multiple of {factor} for "
            f"{len(c['channel_mult'])} levels (channel_mult {c['channel_mult']})"
        )
    if c["model_channels"] * max(c["channel_mult_emb"], c.get("channel_mult_noise", 1)) > 16 * MAX_WIDTH:
        raise CheckpointError(f"network config: the embedding is wider than {16 * MAX_WIDTH} channels")
    noise = c["model_channels"] * c.get("channel_mult_noise", 1)
    if noise % 2 or noise < 4:
        raise CheckpointError(f"network config: the noise embedding needs an even width >= 4, got {noise}")
    widths = [c["model_channels"] * m for m in c["channel_mult"]]
    if max(widths) > MAX_WIDTH:
        raise CheckpointError(f"network config: a level has {max(widths)} channels, at most {MAX_WIDTH} are allowed")
    for i, width in enumerate(widths):
        attends = c["img_resolution"] >> i in c["attn_resolutions"] or i == len(widths) - 1
        if unet.head_channels and attends and width % unet.head_channels:
            raise CheckpointError(
                f"network config: attention of {c['model_type']} needs a multiple of {unet.head_channels} "
                f"channels, level {i} has {width}"
            )
    low, high = c["sigma_min"], c["sigma_max"]
    if low is not None and high is not None and not low < high:
        raise CheckpointError(f"network config: sigma_min {low:g} must be below sigma_max {high:g}")
    taps = c.get("resample_filter", [1, 1])
    if abs(sum(taps)) < 1e-6 or len(taps) % 2 or taps != taps[::-1]:
        raise CheckpointError(
            f"network config: resample_filter must be symmetric, of even length, with a sum != 0; got {taps}"
        )
