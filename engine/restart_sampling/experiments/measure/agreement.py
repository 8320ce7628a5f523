r"""What may be said of Restart against the best SDE, and by whose word.

A distance is of one set of features, and a plan that was chosen by the distances of a set of features is the one that
happens to do well on it. So features that had a part in the tuning are shown but are no witness, and the claim is made
only as far as all other sets of features agree, of which there have to be WITNESSES. Below BLOCKS blocks of seeds, or
SAMPLES samples in a block, a distance is too little to tell, and there is no claim either.

Features had a part in the tuning of a model where rows of a search (`restart-sampling tune`) name them, and where a
preset that was chosen by them (`Preset.tuned_on`) is among the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...plan.presets import presets
from .claims import Contender, Fraction, Row, Table, fraction_of, model_of, most_blocks, table_of

BLOCKS, SAMPLES, WITNESSES = 3, 1000, 2


@dataclass(frozen=True)
class Judgement:
    """What one set of features says of one model.

    Attributes:
        features, reference: by what it is judged. tuned: they had a part in the tuning.
        found: Restart against the best SDE, of the contenders with the most blocks. others: SDE and Restart rows that
            were not drawn on all of these blocks.
    """

    features: str
    reference: str
    tuned: bool
    found: Fraction
    table: Table
    others: int

    @property
    def enough(self) -> bool:
        return self.found.blocks >= BLOCKS and self.found.n >= SAMPLES


def tuned_features(rows: Iterable[Row]) -> set[str]:
    """The features that had a part in choosing what these rows of one model measure."""
    chosen_on = {f"preset:{preset.name}": preset.tuned_on for preset in presets() if preset.tuned_on}
    found: set[str] = set()
    for row in rows:
        if row.get("kind") in ("trial", "tuned") and row.get("features"):
            found.add(str(row["features"]))
        found.add(str(row.get("tuned_on") or ""))
        found.add(chosen_on.get(str(row.get("sampler")), ""))
    return found - {""}


def judgements(rows: Iterable[Row]) -> list[list[Judgement]]:
    """For each model and precision, what each set of features says; those without a part in the tuning first.

    A plan that was chosen at one precision is the same choice at every other.
    """
    models: dict[str, list[Row]] = {}
    measured: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        models.setdefault(model_of(row), []).append(row)
        measured.setdefault((model_of(row), str(row.get("dtype") or "")), []).append(row)
    tuning = {model: tuned_features(some) for model, some in models.items()}
    result = []
    for (model, _), some in measured.items():
        tuned = tuning[model]
        judged: dict[tuple[str, str, int], list[Row]] = {}
        for row in some:
            if row.get("kind") == "quality" and isinstance(row.get("n"), int):
                by = (str(row.get("features") or ""), str(row.get("reference") or ""), row["n"])
                judged.setdefault(by, []).append(row)
        said = []
        for (features, reference, _), mine in judged.items():
            whole = table_of(mine)
            table = most_blocks(whole)
            found = fraction_of(table)
            if found is not None:
                others = len(whole) - len(table)
                said.append(Judgement(features, reference, features in tuned, found, table, others))
        if said:
            result.append(sorted(said, key=lambda j: (j.tuned, -j.found.n)))
    return result


def sentences(rows: Iterable[Row]) -> list[str]:
    """For each model that has SDE and Restart rows: how far the claim goes, then what each set of features says."""
    found = judgements(list(rows))
    return [
        _of_model(said, len(found) > 1) + line for said in found for line in (_verdict(said), *map(_sentence, said))
    ]


def agreed(witnesses: Sequence[Judgement]) -> Contender | None:
    """The Restart contender with the fewest evaluations that is as good as the best SDE by every one of them."""
    if not witnesses:
        return None
    common = set.intersection(*({key for key, _ in w.found.as_good} for w in witnesses))
    mean = dict(witnesses[0].found.as_good)
    return min(common, key=lambda key: (key[2], mean[key]), default=None)


def _of_model(said: Sequence[Judgement], several: bool) -> str:
    row = next(iter(next(iter(said[0].table.values())).values()))
    return f"{row.get('model') or 'a model without a name'}, network {row.get('dtype')}: " if several else ""


def _verdict(said: Sequence[Judgement]) -> str:
    """The claim, or why there is none."""
    by_name: dict[str, list[Judgement]] = {}
    for judgement in said:
        if not judgement.tuned and judgement.enough:
            by_name.setdefault(judgement.features, []).append(judgement)
    witnesses = [judgement for some in by_name.values() for judgement in some]
    if len(by_name) < WITNESSES:
        there = f"there is one, {_names(list(by_name))}" if by_name else "there is none"
        told = (
            f"No claim is made for Restart against the best SDE: it takes {WITNESSES} sets of features that had no part in the "
            f"tuning, with at least {BLOCKS} blocks of {SAMPLES:,} samples each, and {there}."
        )
        tuned = list(dict.fromkeys(j.features for j in said if j.tuned))
        if tuned:
            one = len(tuned) == 1
            what = "it says" if one else "they say"
            told += f" Plans were chosen by {_names(tuned)}, so what {what} is shown but does not count."
        return told
    best = agreed(witnesses)
    if best is None:
        return (
            f"No claim is made for Restart against the best SDE: of the sets of features that had no part in the tuning, "
            f"{_names(list(by_name))}, no measured Restart row{' on these blocks' * any(w.others for w in witnesses)} is as good "
            f"on all."
        )
    _, sampler, nfe, _ = best
    each = ", ".join(
        f"{w.features} FD {dict(w.found.as_good)[best]:.3g} beside {w.found.fd_sde:.3g} at {w.found.nfe_sde} NFE "
        f"({w.found.sampler})"
        for w in witnesses
    )
    fewest = min(w.found.nfe_sde for w in witnesses)
    return (
        f"Restart at {nfe} NFE ({sampler}) is as good as the best SDE on all {len(by_name)} sets of features that had no part in "
        f"the tuning: {each}. That is {nfe / fewest:.2f} of the SDE's evaluations"
        + (", at most." if len({w.found.nfe_sde for w in witnesses}) > 1 else ".")
    )


def _sentence(said: Judgement) -> str:
    """What one set of features says, with its blocks."""
    found = said.found
    on = f"On {said.features or 'features without a name'}" + ", by which plans were chosen" * said.tuned + ": "
    where = f"{found.blocks} block{'s' if found.blocks > 1 else ''} of {found.n:,} samples"
    where += ", equal classes" * (found.metric == "fd_balanced")
    if said.others:
        where += f"; {said.others} further SDE and Restart row{'s' * (said.others > 1)} on fewer blocks left out"
    if not said.enough:
        return f"{on}too little to tell, {where}; at least {BLOCKS} blocks of {SAMPLES:,} are needed."
    best = f"the best SDE (FD {found.fd_sde:.3g} at {found.nfe_sde} NFE, {found.sampler})"
    if not found.as_good or found.nfe_restart is None or found.fraction is None:
        return (
            f"{on}Restart does not reach {best} at any measured number of evaluations; its lowest is FD "
            f"{found.fd_restart:.3g} ({where}; reached in {found.reached} of {found.blocks})."
        )
    (_, sampler, nfe, _), fd = found.as_good[0]
    text = f"{on}Restart at {nfe} NFE (FD {fd:.3g}, {sampler}) is as good as {best}, with {nfe / found.nfe_sde:.2f} of its "
    text += "evaluations"
    if found.between:
        low, high = found.between
        text += f"; interpolated between {low} and {high} NFE it is so at {found.nfe_restart:.0f}, a fraction of "
        text += f"{found.fraction:.2f}"
    if found.low is None:
        text += "; in no single block is it reached"
    else:
        top = f"{found.high:.2f}" if found.high is not None else "not reached"
        text += f"; block by block from {found.low:.2f} to {top}, interpolated"
        text += f" (reached in {found.reached} of {found.blocks})" * (found.high is None)
    return f"{text} ({where})."


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"
