"""What is in a model file, in rows of text, for `restart-sampling models inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..common.errors import CheckpointError
from ..common.files import file_sha256
from .encoder import Encoder
from .family import family_of
from .registry import ModelFile, read_model
from .tensors import tensors_sha256

HASHED = 64 << 20  # bytes of a file that cannot be loaded; a longer one is refused without being read


@dataclass(frozen=True)
class Inspection:
    """What a file holds: `rows` of (label, text), and why it cannot be loaded, None if it can."""

    rows: tuple[tuple[str, str], ...]
    problem: str | None = None


def inspect(path: Path) -> Inspection:
    """Look into the model file `path`. Raises CheckpointError only if there is no file to look at."""
    try:
        model = read_model(path)
    except CheckpointError as error:
        if not path.is_file():
            raise
        try:
            size = path.stat().st_size
            digest = file_sha256(path) if size <= HASHED else f"not computed: over {HASHED >> 20} MiB"
        except OSError:
            raise error from None
        rows = (("file", f"{path}, {size:,} bytes"), ("sha256", digest))
        return Inspection(rows, str(error).removeprefix(f"{path}: "))
    return Inspection(tuple(_rows(model)))


def _rows(model: ModelFile) -> list[tuple[str, str]]:
    network, config, checkpoint = model.network, model.network.config, model.checkpoint
    levels = network.parameterization
    kind = "safetensors of restart-sampling"
    if checkpoint is not None:
        name = "snapshot" if checkpoint.kind == "pickle" else "training state"
        kind = f"{name} ({checkpoint.kind}), network under {checkpoint.key}"
    rows = [
        ("file", f"{model.path}, {model.path.stat().st_size:,} bytes"),
        ("kind", kind),
        ("class", f"{config['class_name']} ({levels.name} preconditioning)"),
        ("network", family_of(config).summary(config)),
        ("sample", " × ".join(map(str, network.shape))),
        ("labels", str(network.label_dim or "none")),
        ("parameters", f"{sum(p.numel() for p in network.parameters()):,} in {len(network.state_dict())} tensors"),
        ("sigma", f"{levels.sigma_min:g} .. {levels.sigma_max:g}"),
        ("D", f"{network.augmented_dim} (PFGM++)" if network.augmented_dim else "none (diffusion)"),
        ("use_fp16", "yes" if config.get("use_fp16") else "no"),
    ]
    if model.card.get("encoder"):
        rows.append(("encoder", str(Encoder.from_card(model.card["encoder"]))))
    if checkpoint is not None:
        for digest in checkpoint.found.sources:
            known = checkpoint.source_of(digest)
            rows.append(("code", f"{known.title if known else 'unknown'}, SHA-256 {digest}"))
    else:
        rows += [(key, _flat(model.card[key])) for key in ("source", "licence") if key in model.card]
    rows += [("sha256", model.sha256), ("tensors", f"SHA-256 {tensors_sha256(network.state_dict())}")]
    return rows + [("note", note) for note in model.notes]


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items() if not isinstance(v, (dict, list)))
    return str(value)
