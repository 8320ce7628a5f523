"""The commands that measure a model in the way its rows were measured, for the page's "How to make it again"."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..measure.shipped import CLASSIFIER, MODEL, MODELS, REFERENCE, TUNER
from .select import Row

BUDGETS = "9,18,35,63,127"
DIGEST = re.compile(r" [0-9a-f]{12}$")  # rows have it after the name of a reference file


@dataclass(frozen=True)
class Commands:
    """The command lines for one model; `quality` has one for each set of features."""

    model: str
    speed: str
    quality: tuple[str, ...]
    tune: str
    report: str

    def all(self) -> list[str]:
        """Return all command lines, in the order in which they are run."""
        return [*self.quality, self.speed, self.tune, self.report]


def models_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of the models as they were given, in the order in which they first occur."""
    return list(dict.fromkeys(str(row["model"]) for row in rows if row.get("model")))


def guides_of(rows: Iterable[Row]) -> list[tuple[str | None, bool]]:
    """Return the guides of the rows as they were given, None for a network without one, and whether told the null."""
    return list(dict.fromkeys((row.get("guide") or None, bool(row.get("guide_null"))) for row in rows))


def _guide(guide: str | None, null: bool) -> list[str]:
    """Return the flags of a guide."""
    return [] if guide is None else ["--guide", guide, *(["--guide-null"] if null else [])]


def commands_for(rows: Sequence[Row], folders: Sequence[str]) -> list[Commands]:
    """Return the commands for each model of the rows; if no row names a model, those for the bundled model.

    `bench` writes into the first of the folders, `tune` into the last.
    """
    return [_of(model, [r for r in rows if r.get("model") == model], folders) for model in models_of(rows) or [MODEL]]


def _of(model: str, rows: Sequence[Row], folders: Sequence[str]) -> Commands:
    named = ["--model", model] if model != MODEL else []
    guides = guides_of(rows)
    guided = _guide(*guides[0]) if len(guides) == 1 else []
    which = list(named)
    dtypes = {str(row["dtype"]) for row in rows if row.get("dtype")}
    if len(dtypes) == 1 and dtypes != {"fp32"}:
        which += ["--dtype", *dtypes]
    bench = ["restart-sampling", "bench", *which, *guided, "--samplers", "all", "--nfe", BUDGETS]
    evaluated = list(
        dict.fromkeys((str(row["features"]), str(row.get("reference") or "")) for row in rows if row.get("features"))
    )
    flags = [_evaluator(model, *pair) for pair in evaluated] or [_evaluator(model, "", "")]
    # A search is repeated with its own features. The others stay independent of it, so that they can test its result.
    searched = [
        (str(row["features"]), str(row.get("reference") or ""))
        for row in rows
        if row.get("kind") in ("trial", "tuned") and row.get("features")
    ]
    if not searched and model not in MODELS:
        searched = evaluated
    by = [*_guidance(rows), *_evaluator(model, *(searched[0] if searched else ("", "")), own=TUNER)]
    return Commands(
        model,
        shlex.join([*bench, "--out", folders[0]]),
        tuple(shlex.join([*bench, "--n", "3000", *some, "--out", folders[0]]) for some in flags),
        shlex.join(["restart-sampling", "tune", *which, "--budget", "20,43,63", *by, "--out", folders[-1]]),
        shlex.join(["restart-sampling", "report", *folders, *named]),
    )


def _guidance(rows: Sequence[Row]) -> list[str]:
    """Return the flags of the guidance under which the newest search of the rows was made."""
    search = next((row for row in reversed(rows) if row.get("kind") in ("trial", "tuned")), {})
    config = search.get("config") or {}
    words = _guide(*guides_of([search])[0])
    if config.get("guidance_scale", 1.0) != 1.0:
        words += ["--guidance-scale", str(config["guidance_scale"])]
        if interval := config.get("guidance_interval"):
            words += ["--guidance-interval", ",".join("inf" if end is None else str(end) for end in interval)]
        if rounding := config.get("guidance_interval_rounding"):
            words += ["--guidance-interval-rounding", str(rounding)]
    return words


def _evaluator(model: str, features: str, reference: str, own: str = CLASSIFIER) -> list[str]:
    """Return the flags that name features and reference.

    There are none for what the command takes for bundled models by default: its features `own` and its reference.
    """
    bundled = model in MODELS
    words = []
    if not (bundled and features in ("", own)):
        words += ["--features", features or "MODULE:FACTORY"]
    if not (bundled and reference in ("", REFERENCE)):
        words += ["--reference", DIGEST.sub("", reference) or "FILE.npz"]
    return words
