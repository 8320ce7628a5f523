r"""What a network config may hold: names, types, defaults, bounds.

The defaults are those of the EDM checkpoint format, where a missing argument means the default. Bounds keep a
damaged or hostile file from asking for absurd memory; every published network is far inside them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...common.errors import CheckpointError
from .layers import ADM_HEAD_CHANNELS

MAX_WIDTH = 4096  # channels of one level; the widest published network has 768
REQUIRED = object()


class Field(NamedTuple):
    """One entry of a config.

    `kind` is int, float, bool, ints, floats or a tuple of choices. `limits` are inclusive; for lists they
    bound the elements, and `length` their number. `optional` allows None.
    """

    kind: str | tuple[str, ...]
    default: Any
    limits: tuple[float, float] = (-math.inf, math.inf)
    length: tuple[int, int] = (1, 8)
    optional: bool = False


POSITIVE = (1e-12, 1e12)
COMMON = {
    "img_resolution": Field("int", REQUIRED, (1, 4096)),
    "img_channels": Field("int", REQUIRED, (1, 64)),
    "label_dim": Field("int", 0, (0, 100_000)),
    "use_fp16": Field("bool", False),
    "augment_dim": Field("int", 0, (0, 64)),
    "model_channels": Field("int", REQUIRED, (4, MAX_WIDTH)),
    "channel_mult": Field("ints", REQUIRED, (1, 64)),
    "channel_mult_emb": Field("int", 4, (1, 64)),
    "num_blocks": Field("int", REQUIRED, (1, 32)),
    "attn_resolutions": Field("ints", REQUIRED, (1, 4096), (0, 8)),
    "dropout": Field("float", 0.10, (0.0, 1.0)),
    "label_dropout": Field("float", 0.0, (0.0, 1.0)),
}
PFGMPP = {"pfgmpp": Field("bool", False), "D": Field("int", 128, (1, 2**40))}
SIGMA_LIMITS = {
    "sigma_min": Field("float", None, (0.0, 1e12), optional=True),
    "sigma_max": Field("float", None, POSITIVE, optional=True),
}
CLASSES: dict[str, dict[str, Field]] = {
    "EDMPrecond": {
        "sigma_min": Field("float", 0.0, (0.0, 1e12)),
        "sigma_max": SIGMA_LIMITS["sigma_max"],
        "sigma_data": Field("float", 0.5, POSITIVE),
        **PFGMPP,
    },
    "VPPrecond": {
        **SIGMA_LIMITS,
        "beta_d": Field("float", 19.9, POSITIVE),
        "beta_min": Field("float", 0.1, (0.0, 1e12)),
        "M": Field("int", 1000, (2, 100_000)),
        "epsilon_t": Field("float", 1e-5, POSITIVE),
    },
    "VEPrecond": {
        "sigma_min": Field("float", 0.02, (0.0, 1e12)),
        "sigma_max": Field("float", 100.0, POSITIVE),
        **PFGMPP,
    },
    "iDDPMPrecond": {
        **SIGMA_LIMITS,
        "C_1": Field("float", 0.001, (0.0, 1.0)),
        "C_2": Field("float", 0.008, POSITIVE),
        "M": Field("int", 1000, (2, 100_000)),
    },
}
DEFAULT_MODEL = {
    "EDMPrecond": "DhariwalUNet",
    "VPPrecond": "SongUNet",
    "VEPrecond": "SongUNet",
    "iDDPMPrecond": "DhariwalUNet",
}
MODELS: dict[str, dict[str, Field]] = {
    "SongUNet": {
        "embedding_type": Field(("positional", "fourier"), "positional"),
        "channel_mult_noise": Field("int", 1, (1, 64)),
        "encoder_type": Field(("standard", "skip", "residual"), "standard"),
        "decoder_type": Field(("standard", "skip"), "standard"),
        "resample_filter": Field("floats", [1, 1], (-1e6, 1e6), (2, 16)),
    },
    "DhariwalUNet": {},
}
MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    "SongUNet": {"model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4, "attn_resolutions": [16]},
    "DhariwalUNet": {
        "model_channels": 192,
        "channel_mult": [1, 2, 3, 4],
        "num_blocks": 3,
        "attn_resolutions": [32, 16, 8],
    },
}
MODEL_KEYS = (
    "augment_dim",
    "model_channels",
    "channel_mult",
    "channel_mult_emb",
    "num_blocks",
    "attn_resolutions",
    "dropout",
    "label_dropout",
)


def _number(key: str, value: Any, field: Field, integer: bool) -> float:
    kinds = (int,) if integer else (int, float)
    low, high = field.limits
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        what = "an integer" if integer else "a number"
        raise CheckpointError(f"network config: {key} must be {what} in [{low:g}, {high:g}], got {str(value)[:60]}")
    return value if integer else float(value)


def _checked(key: str, value: Any, field: Field) -> Any:
    """`value` in plain JSON types, or CheckpointError."""
    if field.optional and (value is None or value == math.inf):
        return None
    if isinstance(field.kind, tuple):
        if value not in field.kind:
            allowed = ", ".join(field.kind)
            raise CheckpointError(f"network config: {key} must be one of {allowed}; got {str(value)[:60]!r}")
        return value
    if field.kind == "bool":
        if not isinstance(value, bool):
            raise CheckpointError(f"network config: {key} must be true or false, got {str(value)[:60]}")
        return value
    if field.kind in ("ints", "floats"):
        low, high = field.length
        if not isinstance(value, (list, tuple)) or not low <= len(value) <= high:
            raise CheckpointError(
                f"network config: {key} must be a list of {low} to {high} numbers, got {str(value)[:60]}"
            )
        return [_number(f"{key}[{i}]", v, field, field.kind == "ints") for i, v in enumerate(value)]
    return _number(key, value, field, field.kind == "int")


def _choice(config: Mapping[str, Any], key: str, allowed: Mapping[str, Any], default: str | None = None) -> str:
    value = config.get(key, default)
    if not isinstance(value, str) or value not in allowed:
        names = ", ".join(allowed)
        raise CheckpointError(f"network config: {key} must be one of {names}; got {str(value)[:60]!r}")
    return value


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config` with every default filled in, checked; JSON-able without NaN or Infinity.

    Raises CheckpointError naming the entry, what was given and what is allowed.
    """
    if not isinstance(config, Mapping):
        raise CheckpointError(f"network config: expected an object, got {type(config).__name__}")
    class_name = _choice(config, "class_name", CLASSES)
    model_type = _choice(config, "model_type", MODELS, DEFAULT_MODEL[class_name])
    for old in ("pfgm", "small"):  # arguments of early PFGM++ sources, which change the formulas
        if config.get(old):
            raise CheckpointError(f"network config: {old}=true (an early PFGM++ variant) is not supported")
    fields = {**COMMON, **CLASSES[class_name], **MODELS[model_type]}
    allowed = {"class_name", "model_type", "pfgm", "small", *fields}
    unknown = sorted(str(k) for k in config if k not in allowed)
    if unknown:
        close = difflib.get_close_matches(unknown[0], allowed, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise CheckpointError(f"network config: {class_name} with {model_type} has no {', '.join(unknown[:20])}{hint}")
    result: dict[str, Any] = {"class_name": class_name, "model_type": model_type}
    for key, field in fields.items():
        value = config.get(key, MODEL_DEFAULTS[model_type].get(key, field.default))
        if value is REQUIRED:
            raise CheckpointError(f"network config: {key} is missing")
        result[key] = _checked(key, value, field)
    _check_together(result)
    return result


def _check_together(c: Mapping[str, Any]) -> None:
    """What single bounds cannot say: levels divide, heads divide, sigma limits in order."""
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
    if c["model_type"] == "DhariwalUNet":
        for i, width in enumerate(widths):
            attends = c["img_resolution"] >> i in c["attn_resolutions"] or i == len(widths) - 1
            if attends and width % ADM_HEAD_CHANNELS:
                raise CheckpointError(
                    f"network config: attention of DhariwalUNet needs a multiple of {ADM_HEAD_CHANNELS} "
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


def model_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the model class, from a complete config."""
    return {key: config[key] for key in (*MODEL_KEYS, *MODELS[config["model_type"]])}
