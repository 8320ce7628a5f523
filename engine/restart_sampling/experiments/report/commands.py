"""The commands that measure a model, as its rows say it was measured: for the page's "how to make it again"."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..measure.shipped import CLASSIFIER, MODEL, REFERENCE, TUNER
from .select import Row

BUDGETS = "9,18,35,63,127"
DIGEST = re.compile(r" [0-9a-f]{12}$")  # `judge.load_reference` puts it after a file's name


@dataclass(frozen=True)
class Commands:
    """Command lines for one model; `quality` has one for each set of features."""

    model: str
    speed: str
    quality: tuple[str, ...]
    tune: str
    report: str

    def all(self) -> list[str]:
        return [*self.quality, self.speed, self.tune, self.report]


def models_of(rows: Iterable[Row]) -> list[str]:
    """The names of the models, as they were given; those met first come first."""
    return list(dict.fromkeys(str(row["model"]) for row in rows if row.get("model")))


def commands_for(rows: Sequence[Row], folders: Sequence[str]) -> list[Commands]:
    """For each model of the rows; where no row names one, for the bundled model.

    `bench` writes into the first of the folders, `tune` into the last.
    """
    return [_of(model, [r for r in rows if r.get("model") == model], folders) for model in models_of(rows) or [MODEL]]


def _of(model: str, rows: Sequence[Row], folders: Sequence[str]) -> Commands:
    named = ["--model", model] if model != MODEL else []
    which = list(named)
    dtypes = {str(row["dtype"]) for row in rows if row.get("dtype")}
    if len(dtypes) == 1 and dtypes != {"fp32"}:
        which += ["--dtype", *dtypes]
    bench = ["restart-sampling", "bench", *which, "--samplers", "all", "--nfe", BUDGETS]
    judged = list(
        dict.fromkeys((str(row["features"]), str(row.get("reference") or "")) for row in rows if row.get("features"))
    )
    judges = [_judge(model, *pair) for pair in judged] or [_judge(model, "", "")]
    # A search is made again by its own features. Others are for judging: a search by them would make them no witnesses.
    searched = [
        (str(row["features"]), str(row.get("reference") or ""))
        for row in rows
        if row.get("kind") in ("trial", "tuned") and row.get("features")
    ]
    if not searched and model != MODEL:
        searched = judged
    by = _judge(model, *(searched[0] if searched else ("", "")), own=TUNER)
    return Commands(
        model,
        shlex.join([*bench, "--out", folders[0]]),
        tuple(shlex.join([*bench, "--n", "3000", *judge, "--out", folders[0]]) for judge in judges),
        shlex.join(["restart-sampling", "tune", *which, "--budget", "20,43,63", *by, "--out", folders[-1]]),
        shlex.join(["restart-sampling", "report", *folders, *named]),
    )


def _judge(model: str, features: str, reference: str, own: str = CLASSIFIER) -> list[str]:
    """The flags that name features and reference; none where they are what the command takes for the bundled model,
    `own`.
    """
    bundled = model == MODEL
    words = []
    if not (bundled and features in ("", own)):
        words += ["--features", features or "MODULE:FACTORY"]
    if not (bundled and reference in ("", REFERENCE)):
        words += ["--reference", DIGEST.sub("", reference) or "FILE.npz"]
    return words
