r"""The encoder beside the network of an EDM2 snapshot: from its record to an :class:`~....encoder.Encoder`.

    StandardRGBEncoder    nothing besides its class
    StabilityVAEEncoder   vae_name, and scale and bias, float32 arrays of NumPy with one number for each channel

An array is a call, `_reconstruct(ndarray, (0,), b"b")`, whose state is (1, shape, dtype, Fortran order, bytes).
"""

from __future__ import annotations

import struct
from typing import Any

from ...encoder import CHANNELS, Encoder
from .limits import Refused, shown
from .modules import persistent
from .tensors import raw_bytes
from .values import ARRAY, DTYPE, Record

CLASSES = {"StandardRGBEncoder": "rgb", "StabilityVAEEncoder": "vae"}
FLOATS = {"f4": "f", "f8": "d"}


def encoder_of(record: Any) -> Encoder | None:
    """Return the encoder that `record` describes, None if it is None. Raises Refused, CheckpointError for others."""
    if record is None:
        return None
    module = persistent(record)
    if module is None:
        raise Refused("the encoder is not a persistent object", getattr(record, "at", None))
    kind = CLASSES.get(module.class_name)
    if kind is None:
        names = ", ".join(CLASSES)
        raise Refused(f"an encoder of the class {shown(module.class_name)} is not supported, only {names}", module.at)
    if kind == "rgb":
        return Encoder(kind)
    name = module.state.get("vae_name")
    if type(name) is not str:
        raise Refused("the encoder does not say the name of its autoencoder", module.at)
    scale, bias = (_vector(module.state.get(n), n, module.at) for n in ("scale", "bias"))
    return Encoder(kind, name, scale, bias)


def _vector(value: Any, name: str, at: int) -> tuple[float, ...]:
    """Return the numbers of a one-dimensional NumPy array. Raises Refused for anything else."""
    wrong = Refused(f"the encoder's {name} is not a list of numbers as NumPy writes them", at)
    if not isinstance(value, Record) or value.kind != ARRAY or type(value.state) is not tuple or len(value.state) != 5:
        raise wrong
    _, shape, dtype, _, raw = value.state
    if type(shape) is not tuple or len(shape) != 1 or type(shape[0]) is not int or not 1 <= shape[0] <= CHANNELS:
        raise wrong
    if not isinstance(dtype, Record) or dtype.kind != DTYPE or type(dtype.state) is not tuple:
        raise wrong
    if not dtype.args or type(dtype.args[0]) is not str or dtype.args[0] not in FLOATS or dtype.state[1:2] != ("<",):
        raise wrong
    code = f"<{shape[0]}{FLOATS[dtype.args[0]]}"
    data = raw_bytes(raw, at).view
    if len(data) != struct.calcsize(code):
        raise wrong
    return struct.unpack(code, data)
