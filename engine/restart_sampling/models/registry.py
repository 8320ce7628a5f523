"""Model files: the bundled ones, and any other by its path, as networks and as denoisers.

`rs.load` is in `integrations/load.py`, since it takes pipelines of other libraries too.
"""

from __future__ import annotations

import hashlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..common.checks import did_you_mean, shown
from ..common.errors import CheckpointError, RestartValueError
from ..common.lazy import moved_names
from .conditions import CLASS, Condition
from .denoiser import Denoiser
from .family import Network
from .files.pickles.checkpoint import Checkpoint, open_bytes, read
from .files.safetensors_file import PICKLES, diagnose, is_safetensors, what_it_is
from .files.weights import fill, from_header
from .tensors import tensors_sha256

DATA = Path(__file__).parent / "data"
BUNDLED = {
    name: DATA / f"{name}.safetensors" for name in ("fashion-mnist", "fashion-mnist-edm2", "fashion-mnist-edm2-guide")
}
BLOCK = 1 << 20  # bytes that are hashed at once
NO_SAFETENSORS = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt")

__getattr__ = moved_names(__name__, {"load": "restart_sampling.integrations.load"})


@dataclass
class ModelFile:
    """A model file as it was read. `checkpoint` is there for .pkl and .pt files; `sha256` is that of the file."""

    path: Path
    sha256: str
    network: Network
    card: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    checkpoint: Checkpoint | None = None


def load_model(
    source: str | Path,
    device: str = "cpu",
    sha256: str | None = None,
    guide: str | Path | Denoiser | None = None,
    guide_null: bool = False,
) -> Denoiser:
    """Return the denoiser in a model file, or of a bundled name ("fashion-mnist"), on `device`.

    Files: .safetensors written by this package, .pkl snapshots of EDM, EDM2 and PFGM++, .pt training states of EDM and
    PFGM++. Nothing in a file is ever executed.

    Args:
        sha256: pins the file: its SHA-256, or that of its tensors, as `restart-sampling models inspect` prints them.
        guide: the model that guides it, a file, a bundled name or a denoiser; see `Denoiser.guided_by`.
        guide_null: tell the guide the nulls instead of each sample's conditions.

    Returns:
        A denoiser whose `info` holds "path", "sha256" (of the file), "card", "notes" (what to know before trusting the
        samples), "use_fp16" (recorded, not acted on: choose `dtype` in the sampler), "pfgmpp_D" (D of a PFGM++ network,
        else None) and "encoder" (what samples are made of as EDM2's files say it, `encoder.py`, else None). With a
        guide "sha256" is of the two files together, "network_sha256" of this one, and "guide" holds the `info` of the
        guide.

    Raises:
        CheckpointError: there is no such file, or what is wrong with it.
        RestartValueError: the guide does not fit.
    """
    path = find(source)
    pin = None if sha256 is None else sha256.lower()
    if pin is not None and not re.fullmatch("[0-9a-f]{64}", pin):
        raise CheckpointError(f"sha256 must be 64 hexadecimal digits, got {len(pin)} characters")
    model = read_model(path)
    network = model.network
    if pin is not None and pin not in (model.sha256, tensors_sha256(network.state_dict())):
        raise CheckpointError(
            f"{path}: SHA-256 {model.sha256[:12]}… is not the one asked for, {pin[:12]}…: this is another file"
        )
    network.eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster on a CPU
    name = str(source) if str(source) in BUNDLED else path.name
    info = {
        "card": model.card,
        "path": str(path),
        "sha256": model.sha256,
        "notes": model.notes,
        "use_fp16": network.config.get("use_fp16", False),
        "pfgmpp_D": network.augmented_dim,
        "encoder": model.card.get("encoder"),
    }
    labels = {CLASS: Condition((network.label_dim,), null=network.class_null)} if network.label_dim else {}
    denoiser = Denoiser(
        network,
        network.parameterization,
        network.shape,
        network.label_dim,
        tuple(model.card.get("classes", ())),
        name,
        info,
        network.augmented_dim,
        labels,
    )
    denoiser = denoiser.to(device)
    if guide is not None:
        other = guide if isinstance(guide, Denoiser) else load_model(guide, device)
        return denoiser.guided_by(other, null=guide_null)
    if guide_null:
        raise RestartValueError("guide_null says what a guide is told, and no guide is given; leave it out")
    return denoiser


def find(source: str | Path) -> Path:
    """Return the file of a bundled name, or the path as it is given. Raises CheckpointError if there is none."""
    if not isinstance(source, (str, Path)):
        raise CheckpointError(
            f"a model is a name, a file or a diffusers pipeline, got {shown(source)}; "
            f"bundled models: {', '.join(BUNDLED)}"
        )
    if (bundled := BUNDLED.get(str(source))) is not None:
        return bundled
    if "://" in str(source):
        raise CheckpointError(
            f"{str(source)!r} is an address, and nothing is downloaded; download it and give the file"
        )
    path = Path(source).expanduser()
    try:
        path.stat()
    except FileNotFoundError:
        hint = did_you_mean(str(source), BUNDLED, f"bundled models: {', '.join(BUNDLED)}")
        raise CheckpointError(f"no model file {str(source)!r}{hint}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return path


def read_model(path: Path) -> ModelFile:
    """Read a model file of any supported kind; its first bytes say which. Raises CheckpointError."""
    if path.is_dir():
        diagnose(path, "")
    data = open_bytes(path)
    # First what its structure says, which costs little for a file of any size: what is refused is not hashed.
    checkpoint = None
    head = bytes(data[:512])
    if head.startswith(PICKLES) and not is_safetensors(head):
        checkpoint = read(path, data)
        card, notes = checkpoint.card, checkpoint.notes
    elif path.suffix in NO_SAFETENSORS:
        what = what_it_is(head, len(data)) or "not a pickle of protocol 2 to 5, and not a torch.save file"
        raise CheckpointError(f"{path}: {what}")
    else:
        network, card = from_header(path)
        notes = [str(note) for note in card["notes"]] if isinstance(card.get("notes"), list) else []
    # The hash takes half of the time, and it lets other threads run.
    stop = threading.Event()
    with ThreadPoolExecutor(1, "restart-sha256") as pool:
        digest = pool.submit(_sha256, data, stop)
        try:
            if checkpoint is not None:
                network = checkpoint.network()
            else:
                fill(network, path)
        except BaseException:
            stop.set()  # the weights are refused, so the rest of the file need not be hashed
            raise
        return ModelFile(path, digest.result(), network, card, notes, checkpoint)


def _sha256(data: memoryview, stop: threading.Event) -> str:
    """Return the SHA-256 of `data`, hex, or of a part of it once `stop` is set."""
    digest = hashlib.sha256()
    for start in range(0, len(data), BLOCK):
        if stop.is_set():
            break
        digest.update(data[start : start + BLOCK])
    return digest.hexdigest()
