r"""The claim on Restart against the best SDE, as far as several sets of features agree on it.

A distance is of one set of features, and a plan that was chosen by the distances of a set of features is the one that
happens to do well on it. So features that had a part in the tuning are shown but do not count, and the claim is made
only as far as all other sets of features agree. At least INDEPENDENT of them are needed. With fewer than BLOCKS blocks
of seeds, or fewer than SAMPLES samples in a block, a set of features does not count either.

Features had a part in the tuning of a model if rows of a search (`restart-sampling tune`) name them, or if a preset
that was chosen by them (`Preset.tuned_on`) is among the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...plan.presets import presets
from .claims import Fraction, Key, Row, Table, fraction_of, model_of, most_blocks, table_of
from .comparison import tuners

BLOCKS, SAMPLES, INDEPENDENT = 3, 1000, 2


@dataclass(frozen=True)
class Finding:
    """The result of one set of features on one model.

    Attributes:
        features, reference: by which distances are measured. tuned: the features had a part in the tuning.
        found: Restart against the best SDE, of the candidates with the most blocks. table: their rows.
        others: how many SDE and Restart candidates were not drawn on all of these blocks.
    """

    features: str
    reference: str
    tuned: bool
    found: Fraction
    table: Table
    others: int

    @property
    def enough(self) -> bool:
        """Whether it has the blocks and samples that a claim needs."""
        return self.found.blocks >= BLOCKS and self.found.n >= SAMPLES


def tuned_features(rows: Iterable[Row]) -> set[str]:
    """Return the features that had a part in choosing what these rows of one model measure."""
    chosen_on = {f"preset:{preset.name}": preset.tuned_on for preset in presets() if preset.tuned_on}
    found: set[str] = set()
    for row in rows:
        if row.get("kind") in ("trial", "tuned") and row.get("features"):
            found.add(str(row["features"]))
        found.update(tuners(row))
        found.update(tuners({"tuned_on": chosen_on.get(str(row.get("sampler")), "")}))
    return found - {""}


def findings(rows: Iterable[Row]) -> list[list[Finding]]:
    """Return the findings of each model and precision; those of features without a part in the tuning come first.

    A plan that was chosen at one precision counts as chosen at every other.
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
        evaluated: dict[tuple[str, str, int], list[Row]] = {}
        for row in some:
            if row.get("kind") == "quality" and isinstance(row.get("n"), int):
                by = (str(row.get("features") or ""), str(row.get("reference") or ""), row["n"])
                evaluated.setdefault(by, []).append(row)
        several = []
        for (features, reference, _), mine in evaluated.items():
            whole = table_of(mine)
            table = most_blocks(whole)
            found = fraction_of(table)
            if found is not None:
                others = len(whole) - len(table)
                several.append(Finding(features, reference, features in tuned, found, table, others))
        if several:
            result.append(sorted(several, key=lambda finding: (finding.tuned, -finding.found.n)))
    return result


def sentences(rows: Iterable[Row]) -> list[str]:
    """Return, for each model that has SDE and Restart rows, the claim and then the finding of each set of features."""
    models = findings(list(rows))
    return [
        _model(of_one, len(models) > 1) + line
        for of_one in models
        for line in (_claim(of_one), *map(_sentence, of_one))
    ]


def agreed(independent: Sequence[Finding]) -> Key | None:
    """Return the Restart candidate with the fewest evaluations that is as good as the best SDE in every finding."""
    if not independent:
        return None
    common = set.intersection(*({key for key, _ in finding.found.as_good} for finding in independent))
    mean = dict(independent[0].found.as_good)
    return min(common, key=lambda key: (key[2], mean[key]), default=None)


def _model(of_one: Sequence[Finding], several: bool) -> str:
    """Return the name of the model, if there are several."""
    row = next(iter(next(iter(of_one[0].table.values())).values()))
    return f"{row.get('model') or 'a model without a name'}, network {row.get('dtype')}: " if several else ""


def _claim(of_one: Sequence[Finding]) -> str:
    """Return the claim on one model, or why there is none."""
    by_name: dict[str, list[Finding]] = {}
    for finding in of_one:
        if not finding.tuned and finding.enough:
            by_name.setdefault(finding.features, []).append(finding)
    independent = [finding for some in by_name.values() for finding in some]
    if len(by_name) < INDEPENDENT:
        there = f"there is one, {_names(list(by_name))}" if by_name else "there is none"
        told = (
            f"No claim is made for Restart against the best SDE: it takes {INDEPENDENT} sets of features that had no "
            f"part in the tuning, with at least {BLOCKS} blocks of {SAMPLES:,} samples each, and {there}."
        )
        tuned = list(dict.fromkeys(finding.features for finding in of_one if finding.tuned))
        if tuned:
            one = len(tuned) == 1
            what = "it says" if one else "they say"
            told += f" Plans were chosen by {_names(tuned)}, so what {what} is shown but does not count."
        return told
    best = agreed(independent)
    if best is None:
        blocks = " on these blocks" * any(finding.others for finding in independent)
        return (
            f"No claim is made for Restart against the best SDE: of the sets of features that had no part in the "
            f"tuning, {_names(list(by_name))}, no measured Restart row{blocks} is as good on all."
        )
    _, sampler, nfe, _ = best
    each = ", ".join(
        f"{f.features} FD {dict(f.found.as_good)[best]:.3g} beside {f.found.fd_sde:.3g} at {f.found.nfe_sde} NFE "
        f"({f.found.sampler})"
        for f in independent
    )
    sde = {finding.found.nfe_sde for finding in independent}
    return (
        f"Restart at {nfe} NFE ({sampler}) is as good as the best SDE on all {len(by_name)} sets of features that had "
        f"no part in the tuning: {each}. That is {nfe / min(sde):.2f} of the SDE's evaluations"
        + (", at most." if len(sde) > 1 else ".")
    )


def _sentence(finding: Finding) -> str:
    """Return what one set of features shows, with its blocks."""
    found = finding.found
    on = f"On {finding.features or 'features without a name'}" + ", by which plans were chosen" * finding.tuned + ": "
    where = f"{found.blocks} block{'s' if found.blocks > 1 else ''} of {found.n:,} samples"
    where += ", equal classes" * (found.metric == "fd_balanced")
    if finding.others:
        where += f"; {finding.others} further SDE and Restart row{'s' * (finding.others > 1)} on fewer blocks left out"
    if not finding.enough:
        return f"{on}too little to tell, {where}; at least {BLOCKS} blocks of {SAMPLES:,} are needed."
    best = f"the best SDE (FD {found.fd_sde:.3g} at {found.nfe_sde} NFE, {found.sampler})"
    if not found.as_good or found.nfe_restart is None or found.fraction is None:
        return (
            f"{on}Restart does not reach {best} at any measured number of evaluations; its lowest is FD "
            f"{found.fd_restart:.3g} ({where}; reached in {found.reached} of {found.blocks})."
        )
    (_, sampler, nfe, _), fd = found.as_good[0]
    share = f"{nfe / found.nfe_sde:.2f} of its evaluations"
    text = f"{on}Restart at {nfe} NFE (FD {fd:.3g}, {sampler}) is as good as {best}, with {share}"
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
