r"""Read EDM, EDM2 and PFGM++ checkpoints (`.pkl` snapshots, training states `.pt`); nothing in them is run.

Such a file is a pickle that embeds the Python source of its network, and ordinary unpickling executes that source. Here
it is read by a machine that can only build data. Each of these files checks what it receives from the one before:

    archive.py   the zip form of torch.save → the bytes of its members
    machine.py   bytes of a pickle → plain data and inert records; values.py lists the closed set of globals
    modules.py   records → class names, arguments, attributes and, by tensors.py, tensors under state-dict names
    networks.py  those → a config that passes the usual checks, and our own network with exactly these weights
    encoders.py  the record of an encoder → its kind, and its scale and bias

Nothing is imported, called, compiled or executed on behalf of a file, and there is no option that would do it.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....common.errors import CheckpointError
from ...encoder import Encoder
from ...family import Network
from .archive import Archive
from .encoders import encoder_of
from .limits import Refused, shown
from .machine import Machine
from .modules import Found, describe
from .networks import build, notes_of, pickled_by
from .sources import UNKNOWN_LICENCE, Source
from .values import mapping

ZIP, OLD_TORCH = b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass
class Checkpoint:
    """A file that was read; its network is not built yet.

    Attributes:
        path: what messages call the file.
        kind: "pickle" or "torch.save".
        key: the entry of the file that holds the network, "ema" or "net".
        config: of the network, complete.
        found: the description of its modules, which keeps the file mapped.
        notes: what a user should know before trusting the samples.
        encoder: what the network's samples are made of, if the file says so, as EDM2's do.
    """

    path: str
    kind: str
    key: str
    config: dict[str, Any]
    found: Found = field(repr=False)
    notes: list[str] = field(default_factory=list)
    encoder: Encoder | None = None

    @property
    def card(self) -> dict[str, Any]:
        """What a converted file says about the origin of its weights, JSON-able."""
        source = self.source_of(self.found.sources[0])
        return {
            "name": Path(self.path).stem,
            "source": {
                "file": Path(self.path).name,
                "kind": f"{self.kind}, key {self.key}",
                "code": source.title if source else "unknown",
                "code_sha256": self.found.sources[0],
            },
            "licence": {
                "weights": source.licence if source else UNKNOWN_LICENCE,
                "note": "converting does not change the licence of weights",
            },
            **({"encoder": self.encoder.card} if self.encoder else {}),
            **({"notes": self.notes} if self.notes else {}),
        }

    def source_of(self, digest: str) -> Source | None:
        """Return which version of the authors' source text has this SHA-256, if it is a known one."""
        return pickled_by(self.found).sources.get(digest)

    def network(self) -> Network:
        """Return our network with the file's weights: float32, CPU, eval mode. Raises CheckpointError."""
        return guarded(self.path, self._network)

    def _network(self) -> Network:
        network = build(self.found, self.config, self.path)
        if self.encoder is not None:
            self.encoder.check_channels(network.shape[0])
        return network


def open_bytes(path: Path) -> memoryview:
    """Map the content of a file, without reading it. Raises CheckpointError if it is not a regular file, or empty."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: a pipe would wait for a writer
            raise CheckpointError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CheckpointError(f"{path}: the file is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def read(path: str | Path, data: memoryview | None = None) -> Checkpoint:
    """Read a checkpoint from the file at `path`, or from `data`, which messages then call `path`.

    Raises:
        CheckpointError: the path, the byte at fault if one is, and the reason.
    """
    view = open_bytes(Path(path)) if data is None else data
    return guarded(str(path), lambda: _read(str(path), view))


def guarded(path: str, function: Callable[[], Any]) -> Any:
    """Call `function`; any failure becomes a CheckpointError that says where, without content of the file."""
    try:
        return function()
    except Refused as refused:
        where = "" if refused.at is None else f"byte {refused.at}: "
        raise CheckpointError(f"{path}: {where}{refused.reason}{_hint(path, refused.reason)}") from None
    except CheckpointError as error:
        message = str(error)
        raise CheckpointError(message if message.startswith(path) else f"{path}: {message}") from None
    except DAMAGE as error:
        raise CheckpointError(f"{path}: the file is damaged ({type(error).__name__} while reading it)") from None


def _read(path: str, view: memoryview) -> Checkpoint:
    archive = None
    if view[: len(ZIP)] == ZIP:
        archive = Archive(view)
        name = archive.root + "data.pkl"
        data, base = archive.read(name), archive.members[name].start
    elif view[: len(OLD_TORCH)] == OLD_TORCH:
        raise Refused("this is a file of torch.save's old format; EDM, EDM2 and PFGM++ do not write it")
    else:
        data, base = view, 0
    dumped = Machine(data, base=base, storages=archive is not None).run()
    if dumped.end != len(data):
        raise Refused("bytes follow the end of the pickle", base + dumped.end)
    key, entries = _entries(dumped.value)
    found = describe(entries[key], archive, len(view))
    kind = "torch.save" if archive else "pickle"
    config = pickled_by(found).config(found)
    encoder = encoder_of(entries.get("encoder"))
    return Checkpoint(path, kind, key, config, found, notes_of(found, key), encoder)


def _entries(value: Any) -> tuple[str, dict[str | int, Any]]:
    """Return the key of the network, `ema` if there is one, else `net`, and the entries of the file."""
    entries = mapping(value)
    if entries is None:
        raise Refused("the file does not hold a dict, as EDM, EDM2 and PFGM++ checkpoints do")
    for key in ("ema", "net"):
        if entries.get(key) is not None:
            return key, entries
    names = sorted(shown(k) for k in entries if isinstance(k, str))[:20]
    said = f"its keys are {', '.join(names)}" if names else "it has no keys"
    raise Refused(f"the file has neither ema nor net, where EDM, EDM2 and PFGM++ keep the network; {said}")


def _hint(path: str, reason: str) -> str:
    """Return what to do with a file that is of another kind altogether."""
    if Path(path).suffix == ".ckpt" or "state_dict" in reason or "lightning" in reason:
        how = "a Stable Diffusion checkpoint is read by diffusers (from_single_file)"
        return f"; {how}, whose pipelines can be sampled from"
    return ""
