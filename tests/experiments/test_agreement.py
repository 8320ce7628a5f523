"""The claim on Restart against the best SDE: by which features, on which blocks, of which measured points."""

from __future__ import annotations

import pytest

from restart_sampling.experiments.measure import agreement

COMMON = {"kind": "quality", "model": "m", "model_sha256": "a", "reference": "r", "n": 1000, "dtype": "fp32"}


def measured(features, restart, sde=5.0, blocks=3, **more):
    """The best SDE at 127 evaluations, and Restart's FD by NFE, on so many blocks of seeds."""
    points = [("sde", "edm-stochastic", 127, sde), *(("restart", "heun+restart", *p) for p in restart.items())]
    return [
        {
            **COMMON,
            "features": features,
            "family": family,
            "sampler": sampler,
            "nfe": nfe,
            "first_seed": 1000 * k,
            "fd": fd + 0.01 * k,
            **more,
        }
        for family, sampler, nfe, fd in points
        for k in range(blocks)
    ]


def test_a_claim_goes_as_far_as_all_features_agree():
    """By one set of features 22 evaluations are enough, by the other 36: the claim is of 36, with both distances."""
    rows = measured("one", {22: 4.0, 36: 3.5}) + measured("other", {22: 6.0, 36: 4.5}, sde=5.5)
    claim, one, other = agreement.sentences(rows)
    assert claim.startswith("Restart at 36 NFE (heun+restart) is as good as the best SDE on all 2 sets of features")
    assert "one FD 3.51 beside 5.01 at 127 NFE" in claim and "other FD 4.51 beside 5.51 at 127 NFE" in claim
    assert "0.28 of the SDE's evaluations" in claim
    assert "Restart at 22 NFE (FD 4.01" in one and "interpolated between" not in one
    assert "Restart at 36 NFE (FD 4.51" in other and "interpolated between 22 and 36 NFE it is so at" in other


def test_features_that_disagree_make_no_claim():
    rows = measured("one", {22: 4.0}) + measured("other", {22: 6.0})
    claim, *_ = agreement.sentences(rows)
    assert claim.startswith("No claim") and "one and other" in claim
    # Each is reached, but by another configuration: still none that is as good on all.
    rows = measured("one", {22: 4.0, 36: 6.0}) + measured("other", {22: 6.0, 36: 4.0})
    assert agreement.sentences(rows)[0].startswith("No claim")


@pytest.mark.parametrize("kind", ["trial", "tuned"])
def test_features_that_tuned_are_shown_but_do_not_count(kind):
    rows = measured("one", {22: 4.0}) + measured("other", {22: 4.0})
    assert agreement.sentences(rows)[0].startswith("Restart at 22 NFE")
    search = {**COMMON, "kind": kind, "features": "one", "fd": 3.0, "nfe": 22}
    claim, independent, tuner = agreement.sentences([*rows, search])
    assert claim.startswith("No claim") and "there is one, other" in claim
    assert "Plans were chosen by one, so what it says is shown but does not count" in claim
    assert independent.startswith("On other: ") and tuner.startswith("On one, by which plans were chosen: ")
    # A third set makes two again; and the search of another model does not touch this one.
    assert agreement.sentences([*rows, *measured("third", {22: 4.0}), search])[0].startswith("Restart at 22 NFE")
    assert agreement.sentences([*rows, {**search, "model_sha256": "b"}])[0].startswith("Restart at 22 NFE")


@pytest.mark.parametrize("kind", ["trial", "tuned"])
def test_a_search_at_one_precision_counts_at_every_other(kind):
    rows = [{**r, "dtype": "bf16"} for name in ("one", "other") for r in measured(name, {22: 4.0})]
    assert agreement.sentences(rows)[0].startswith("Restart at 22 NFE")
    claim, *_ = agreement.sentences([*rows, {**COMMON, "kind": kind, "features": "one", "nfe": 22}])
    assert claim.startswith("No claim") and "Plans were chosen by one" in claim


def test_a_preset_says_what_it_was_tuned_on():
    """The bundled preset was found by the bundled classifier, with or without the rows of that search."""
    names = ("fashion-mnist-classifier", "resnet")
    rows = [r for name in names for r in measured(name, {22: 4.0})]
    assert agreement.sentences(rows)[0].startswith("Restart at 22 NFE")
    rows = [{**r, "sampler": "preset:fashion-mnist-22"} if r["family"] == "restart" else r for r in rows]
    assert agreement.tuned_features(rows) == {"fashion-mnist-classifier"}
    assert "there is one, resnet" in agreement.sentences(rows)[0]


@pytest.mark.parametrize(("blocks", "n"), [(2, 1000), (1, 256), (10, 256)])
def test_too_few_samples_make_no_claim_and_are_said_to_be_too_few(blocks, n):
    rows = measured("one", {22: 4.0}, blocks=blocks, n=n) + measured("other", {22: 4.0}, blocks=blocks, n=n)
    claim, *each = agreement.sentences(rows)
    assert claim.startswith("No claim") and "at least 3 blocks of 1,000 samples" in claim
    assert all("too little to tell" in line and "as good as" not in line for line in each)


def test_rows_of_other_seeds_do_not_take_the_shared_blocks_away():
    """As many blocks of other seeds, as a second run with --first-seed has, or some that overlap."""
    rows = [r for name in ("one", "other") for r in measured(name, {22: 4.0}, blocks=10)]
    want = agreement.sentences(rows)
    assert want[0].startswith("Restart at 22 NFE") and "10 blocks" in want[1]
    for shift in (10, 8):
        more = [
            {**r, "nfe": 18, "fd": 3.0, "first_seed": r["first_seed"] + 1000 * shift}
            for r in rows
            if r["family"] == "restart"
        ]
        found = agreement.sentences([*rows, *more])
        assert found[0] == want[0]
        assert "10 blocks of 1,000 samples; 1 further SDE and Restart row on fewer blocks left out" in found[1]
        worse = [{**r, "fd": r["fd"] + 2 * (r["family"] == "restart")} for r in rows]
        assert "no measured Restart row on these blocks is as good" in agreement.sentences([*worse, *more])[0]


def test_models_are_told_apart():
    rows = [r for name in ("one", "other") for r in measured(name, {22: 4.0})]
    more = [
        {**r, "model": "mine.pkl", "model_sha256": "b", "fd": r["fd"] + (r["family"] == "restart") * 9} for r in rows
    ]
    said = agreement.sentences([*rows, *more])
    assert len(said) == 6
    assert said[0].startswith("m, network fp32: Restart at 22 NFE") and said[3].startswith(
        "mine.pkl, network fp32: No claim"
    )


def test_rows_that_lack_fields_say_nothing():
    rows = measured("one", {22: 4.0})
    for name in ("fd", "nfe", "first_seed", "n", "sampler", "family"):
        assert agreement.sentences([{k: v for k, v in r.items() if k != name} for r in rows]) == []
    assert agreement.sentences([r for r in rows if r["family"] == "sde"]) == []
