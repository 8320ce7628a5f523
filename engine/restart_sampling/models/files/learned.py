r"""Plans learned by others: times of LD3 and parameters of AdaSDE, read from their pickles without running any code.

LD3 (arXiv 2405.15506) writes `best_v2.pt`, a torch.save file whose entry `best_t_steps` has 2(N + 1) times: those of
the solver, then those that the network is told at them. They become `sigmas` and `network_sigmas`. A run of LD3 ends at
the last time; a plan goes on to 0, with one evaluation more.

AdaSDE (arXiv 2510.23285) writes `network-snapshot-*.pkl`, an object of EDM's persistence with parameters [steps, 1]:

    r = sigmoid(r)    w = softmax(weight_s) over each row
    c = 1 + κ_d·tanh(scale_dir/2)    a = 1 + κ_t·tanh(scale_time/2)
    γ = γ_min + (γ_max − γ_min)·sigmoid((gamma + 2 ln 1.5)/2), γ_min = 2e-4

κ_d, κ_t, γ_max and the ends of the grid are options of its training: those in `training_options.json` beside the file,
or else the published 0.05, 0.2, 0.02, and 0.002 .. 80. The levels are even in the time of VP. All become `sigmas` and
options of "ada-sde". A plan makes the first evaluation, which AFS leaves out, and goes on to 0: two evaluations more.
"""

from __future__ import annotations

import math
import struct
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from ...common.errors import CheckpointError
from ...common.strict_json import loads
from ...plan.schedules.vp import vp
from .pickles.archive import Archive
from .pickles.checkpoint import ZIP, guarded, open_bytes
from .pickles.limits import LIMITS, Refused
from .pickles.machine import Machine
from .pickles.modules import Module, persistent
from .pickles.tensors import Budget, number, tensor
from .pickles.values import Record, mapping

MOST = 10_000  # numbers of a tensor
CODES = {"float32": "f", "float64": "d", "float16": "e"}
GAMMA_MIN = 2e-4
PUBLISHED = {"scale_dir": 0.05, "scale_time": 0.2, "gamma": 0.02, "sigma_min": 0.002, "sigma_max": 80.0}
PARAMETERS = ("r", "scale_dir", "scale_time", "weight_s", "gamma")


def read(path: str | Path) -> dict[str, Any]:
    """Return the options of Plan.build in a file of LD3 or AdaSDE.

    Raises:
        CheckpointError: the path, the byte at fault if one is, and the reason.
    """
    view = open_bytes(Path(path))
    found: dict[str, Any] = guarded(str(path), lambda: _read(Path(path), view))
    return found


def _read(path: Path, view: memoryview) -> dict[str, Any]:
    archive = Archive(view) if view[: len(ZIP)] == ZIP else None
    name = archive.root + "data.pkl" if archive else ""
    data, base = (archive.read(name), archive.members[name].start) if archive else (view, 0)
    dumped = Machine(data, base=base, storages=archive is not None).run()
    if dumped.end != len(data):
        raise Refused("bytes follow the end of the pickle", base + dumped.end)
    entries = mapping(dumped.value)
    if entries is not None and "best_t_steps" in entries:
        return times(_tensor(entries["best_t_steps"], archive, Budget(len(view))))
    held = dumped.value
    if entries is not None:
        held = next((entries[key] for key in ("ema", "model", "net") if entries.get(key) is not None), None)
    root = persistent(held)
    if root is not None and all(_parameter(root, name) is not None for name in PARAMETERS):
        budget = Budget(len(view))
        raw = {name: _rows(_parameter(root, name), archive, budget) for name in PARAMETERS}
        return parameters(raw, _training(path))
    raise Refused("the file is neither LD3's, which has best_t_steps, nor AdaSDE's, which has r, scale_dir and others")


def times(given: list[float]) -> dict[str, Any]:
    """Return the options in 2(N + 1) times of LD3. Raises Refused if they are not noise levels that descend."""
    half = len(given) // 2
    if half < 2 or len(given) % 2:
        raise Refused(f"LD3 writes 2(N + 1) times, N ≥ 1, and this file has {len(given)}")
    sigmas, network = given[:half], given[half:]
    if not all(math.isfinite(t) and t > 0 for t in given) or any(a <= b for a, b in pairwise(sigmas)):
        raise Refused("the times are not positive numbers, those of the solver descending")
    if sigmas[0] <= 1:
        raise Refused(
            f"the times begin at {sigmas[0]:.4g}, so they are those of a VP model and not noise levels; turn them into "
            "levels with the model's schedule, and give them as sigmas and network_sigmas"
        )
    return {"sigmas": sigmas, "network_sigmas": network}


def parameters(raw: dict[str, list[list[float]]], training: dict[str, Any]) -> dict[str, Any]:
    """Return the options in AdaSDE's raw parameters, each [steps, 1]; see the module docstring for the formulas."""
    steps = len(raw["r"])
    if steps < 1 or any(len(rows) != steps or any(len(row) != 1 for row in rows) for rows in raw.values()):
        raise Refused("the parameters of AdaSDE are not all of shape [steps, 1]; other numbers of points are not read")
    flat = {name: [row[0] for row in rows] for name, rows in raw.items()}
    if not all(math.isfinite(v) for values in flat.values() for v in values):
        raise Refused("a parameter of AdaSDE is not finite")
    kappa_d, kappa_t, gamma_max = training["scale_dir"], training["scale_time"], training["gamma"]
    options = {
        "r": [_sigmoid(v) for v in flat["r"]],
        "w": [1.0] * steps,  # the softmax of one number
        "c": [1 + kappa_d * math.tanh(v / 2) for v in flat["scale_dir"]],
        "a": [1 + kappa_t * math.tanh(v / 2) for v in flat["scale_time"]],
        "gamma": [GAMMA_MIN + (gamma_max - GAMMA_MIN) * _sigmoid((v + 2 * math.log(1.5)) / 2) for v in flat["gamma"]],
    }
    sigmas = vp(steps + 1, training["sigma_min"], training["sigma_max"], None, None)
    return {"sigmas": sigmas.tolist(), "solver": "ada-sde", "solver_options": options}


def _sigmoid(v: float) -> float:
    return 0.5 * (1 + math.tanh(v / 2))


def _training(path: Path) -> dict[str, Any]:
    """Return the options of a training of AdaSDE, those published where the file beside it does not say."""
    found, file = dict(PUBLISHED), path.parent / "training_options.json"
    if not file.is_file():
        return found
    try:
        said = loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    pending = [said]
    while pending:  # the options are grouped in dicts of its keywords
        for name, value in (pending.pop() or {}).items():
            if isinstance(value, dict):
                pending.append(value)
            elif name in found and isinstance(value, (int, float)):
                found[name] = value
            elif name == "schedule_type" and value != "time_uniform":
                raise CheckpointError(f"{file}: the schedule {str(value)[:40]!r} is not read, only time_uniform")
            elif name == "schedule_rho" and value != 1:
                raise CheckpointError(f"{file}: schedule_rho must be 1, got {str(value)[:40]}")
    return found


def _parameter(module: Module, name: str) -> Any:
    """Return the record of a parameter, by its name or that with _params; None if there is none."""
    held = mapping(module.state.get("_parameters")) or {}
    return next((held[key] for key in (name, f"{name}_params") if held.get(key) is not None), None)


def _rows(value: Any, archive: Archive | None, budget: Budget) -> list[list[float]]:
    """Return a tensor [steps, k] as rows."""
    found = tensor(value, archive, budget, getattr(value, "at", 0))
    if len(found.size) != 2:
        raise Refused("a parameter of AdaSDE is not a matrix", getattr(value, "at", None))
    flat, k = _numbers(found), found.size[1]
    return [flat[i * k : (i + 1) * k] for i in range(found.size[0])]


def _tensor(value: Any, archive: Archive | None, budget: Budget) -> list[float]:
    """Return a tensor of one dimension, or a list of numbers."""
    if isinstance(value, Record):
        found = tensor(value, archive, budget, value.at)
        if len(found.size) != 1:
            raise Refused("the times are not a tensor of one dimension", value.at)
        return _numbers(found)
    numbers = [number(v) for v in value[:MOST]] if isinstance(value, (list, tuple)) else [None]
    if None in numbers:
        raise Refused("the times are neither a tensor nor a list of numbers")
    return [float(v) for v in numbers if v is not None]


def _numbers(spec: Any) -> list[float]:
    """Return the numbers of a small tensor in row-major order."""
    if spec.dtype not in CODES or math.prod(spec.size) > MOST or len(spec.size) > LIMITS.dimensions:
        raise Refused(f"a tensor is not one of at most {MOST} floating-point numbers")
    size, code = spec.storage.itemsize, "<" + CODES[spec.dtype]
    indices = product(*map(range, spec.size))
    places = (spec.offset + sum(i * s for i, s in zip(at, spec.stride, strict=True)) for at in indices)
    return [struct.unpack_from(code, spec.storage.data, place * size)[0] for place in places]
