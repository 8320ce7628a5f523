r"""The config of an EDM2 network: its entries, and what must hold between them.

The defaults are those of the authors' class `Precond`, where a missing argument means the default; `OURS` are entries
that it does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...common.errors import CheckpointError
from ..schema import REQUIRED, Field, complete

MAX_WIDTH = 4096  # channels of one level; the widest published network has 1,792
UNIT = (1e-3, 1 - 1e-3)  # of a balance; at 0 and 1 one of the two would be left out
OUTER = {
    "img_resolution": Field("int", REQUIRED, (1, 4096)),
    "img_channels": Field("int", REQUIRED, (1, 64)),
    "label_dim": Field("int", REQUIRED, (0, 100_000)),
    "use_fp16": Field("bool", True),
    "sigma_data": Field("float", 0.5, (1e-12, 1e12)),
    "logvar_channels": Field("int", 128, (1, MAX_WIDTH)),
}
OURS = {"label_dropout": Field("float", 0.0, (0.0, 1.0))}  # of training; above 0 the network knows "no class"
INNER = {
    "model_channels": Field("int", 192, (1, MAX_WIDTH)),
    "channel_mult": Field("ints", [1, 2, 3, 4], (1, 64)),
    "channel_mult_noise": Field("int", None, (1, 64), optional=True),
    "channel_mult_emb": Field("int", None, (1, 64), optional=True),
    "num_blocks": Field("int", 3, (1, 32)),
    "attn_resolutions": Field("ints", [16, 8], (1, 4096), (0, 8)),
    "label_balance": Field("float", 0.5, UNIT),
    "concat_balance": Field("float", 0.5, UNIT),
    "channels_per_head": Field("int", 64, (1, MAX_WIDTH)),
    "dropout": Field("float", 0.0, (0.0, 1.0)),
    "res_balance": Field("float", 0.3, UNIT),
    "attn_balance": Field("float", 0.3, UNIT),
    "clip_act": Field("float", 256.0, (1e-6, 1e12), optional=True),
}
SIZES = {64: "XXS", 128: "XS", 192: "S", 256: "M", 320: "L", 384: "XL", 448: "XXL"}  # model_channels → published size


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `config` with every default filled in, checked. Raises CheckpointError."""
    c = complete(config, {**OUTER, **OURS, **INNER}, "an EDM2 network")
    factor = 2 ** (len(c["channel_mult"]) - 1)
    if c["img_resolution"] % factor:
        raise CheckpointError(
            f"network config: img_resolution {c['img_resolution']} must be a multiple of {factor} for "
            f"{len(c['channel_mult'])} levels (channel_mult {c['channel_mult']})"
        )
    widest = c["model_channels"] * max(c["channel_mult"])
    if widest > MAX_WIDTH:
        raise CheckpointError(f"network config: a level has {widest} channels, at most {MAX_WIDTH} are allowed")
    if c["model_channels"] * max(c["channel_mult_emb"] or 1, c["channel_mult_noise"] or 1) > 16 * MAX_WIDTH:
        raise CheckpointError(f"network config: the embedding is wider than {16 * MAX_WIDTH} channels")
    for i, m in enumerate(c["channel_mult"]):
        width, last = c["model_channels"] * m, i == len(c["channel_mult"]) - 1
        heads = width // c["channels_per_head"]
        if (last or c["img_resolution"] >> i in c["attn_resolutions"]) and heads and width % heads:
            raise CheckpointError(
                f"network config: level {i} has {width} channels, which do not divide into {heads} heads "
                f"(channels_per_head {c['channels_per_head']})"
            )
    return c


def summary(config: Mapping[str, Any]) -> str:
    """Return the architecture in a few words: "EDM2-XS, 128 channels × [1, 2, 3, 4]"."""
    published = (config["channel_mult"], config["num_blocks"]) == ([1, 2, 3, 4], 3)
    size = SIZES.get(config["model_channels"]) if published else None
    name = f"EDM2-{size}" if size else "EDM2"
    return f"{name}, {config['model_channels']} channels × {config['channel_mult']}"


def unet_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of the U-Net's class, from a complete config."""
    return {name: config[name] for name in ("img_resolution", "img_channels", "label_dim", *INNER)}
