"""`restart-sampling score` of a job that drew several members of each input: every format, gaps, bad references."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.commands import run

import restart_sampling as rs
from restart_sampling.common.errors import OutputError
from restart_sampling.common.images import to_uint8
from restart_sampling.experiments.measure import rows
from restart_sampling.experiments.measure.ensembles import EnsembleScorer
from restart_sampling.experiments.measure.ensembles.stored import open_ensembles
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.images import read_images
from restart_sampling.jobs.inputs.inputs import Inputs

pytest.importorskip("scoringrules")
pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE, INPUTS, MEMBERS, WIDTH = (3, 4, 5), 5, 4, 0.3
PLAN = rs.Plan.build(steps=4)


def D(x, sigma, low):
    """Data around a field that is given, with a standard deviation of 0.3."""
    variance = sigma.view(-1, 1, 1, 1) ** 2
    return (WIDTH**2 * x + variance * low) / (WIDTH**2 + variance)


MODEL = rs.Denoiser.from_function(D, SHAPE, conditions={"low": rs.Condition(SHAPE)})


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with low.npy, what samples are drawn from, and truths of the same law in truth.npy, .npz and others."""
    folder, rng = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    low = rng.normal(size=(INPUTS, *SHAPE)).astype(np.float32)
    truth = (low + WIDTH * rng.normal(size=low.shape)).astype(np.float32)
    np.save(folder / "low.npy", low)
    np.save(folder / "truth.npy", truth)
    np.savez(folder / "truth.npz", truth=truth, other=low)
    return folder


def drawn(out, given, **options):
    options = {"format": "npz", "pixels": "float32", "batch": 8, "shard_size": 7, "sheets": 1} | options
    inputs = Inputs.read(MODEL, conditions=given / "low.npy", per_input=MEMBERS, first_seed=options.pop("first", 3))
    assert run_job(MODEL, PLAN, None, out, inputs=inputs, **options) == []
    return out


@pytest.fixture(scope="module")
def job(given, tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("job") / "out", given)


def expected(given, truth="truth.npy", stored=lambda x: x):
    """The scores of the same samples, drawn without a job, in one row."""
    low, truth, scorer = np.load(given / "low.npy"), np.load(given / truth), EnsembleScorer()
    for i in range(INPUTS):
        seeds = range(3 + i * MEMBERS, 3 + (i + 1) * MEMBERS)
        scorer.add(stored(rs.sample(MODEL, PLAN, seeds, conditions={"low": torch.from_numpy(low[i])})), truth[i])
    return scorer.result().row()


def scored(capsys, *arguments):
    code, out, err = run(capsys, "score", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def near(found, wanted):
    for name, value in wanted.items():
        if name == "variables":
            assert len(found[name]) == len(value)
            for one, other in zip(found[name], value, strict=True):
                near(one, other)
        elif name not in ("ranks", "rank_deviation"):  # a member within rounding of the truth may change its side
            assert found[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("format", ["npz", "wds", "parquet"])
def test_a_job_in_any_format_has_the_scores_of_its_samples(given, tmp_path, capsys, format):
    """Shards of 7 and inputs of 4 members: inputs go over the ends of files."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    out = drawn(tmp_path / "out", given, format=format)
    row = scored(capsys, out, "--reference", given / "truth.npy", "--out", tmp_path / "rows.jsonl")
    near(row, expected(given))
    assert (row["inputs"], row["members"], row["n"], row["nfe"]) == (INPUTS, MEMBERS, INPUTS * MEMBERS, PLAN.nfe)
    assert sum(row["ranks"]) == INPUTS * 60 and len(row["variables"]) == 3
    assert row["reference"].startswith("truth.npy ") and row["model"] == "D"
    assert [one["crps"] for one in rows.read(tmp_path / "rows.jsonl")] == [row["crps"]]


@pytest.mark.parametrize("format", ["zarr", "netcdf"])
def test_a_grid_of_members_is_read_by_its_seeds(job, tmp_path, format):
    """The samples of a job as [input, member, …], in files of two inputs each, with an empty place at the end."""
    whole, found = np.stack(list(open_ensembles(job))), open_ensembles(job)
    seeds = 3 + np.arange(INPUTS * MEMBERS).reshape(INPUTS, MEMBERS)
    samples = np.concatenate([whole, np.full((1, *whole.shape[1:]), np.nan, np.float32)])
    seeds = np.concatenate([seeds, np.full((1, MEMBERS), -1)])
    (tmp_path / "samples").mkdir()
    if format == "zarr":
        zarr = pytest.importorskip("zarr")
        zarr.save_group(str(tmp_path / "samples" / "samples.zarr"), samples=samples, seed=seeds)
    else:
        netcdf = pytest.importorskip("netCDF4")
        for shard in range(3):
            with netcdf.Dataset(
                tmp_path / "samples" / f"shard-{shard:06d}.nc", "w", format="NETCDF3_64BIT_DATA"
            ) as file:
                for name, size in zip("ioabc", (2, *samples.shape[1:]), strict=True):
                    file.createDimension(name, size)
                part = slice(2 * shard, 2 * shard + 2)
                file.createVariable("samples", "f4", tuple("ioabc"), fill_value=np.nan)[:] = samples[part]
                file.createVariable("seed", "i8", tuple("io"), fill_value=-1)[:] = seeds[part]
    moved = replace(found, folder=tmp_path, record={**found.record, "format": format})
    assert np.array_equal(np.stack(list(moved)), whole)


def test_every_kind_of_reference_is_the_same_array(given, job, tmp_path, capsys):
    row = scored(capsys, job, "--reference", given / "truth.npy")
    kinds = [given / "truth.npz"]
    try:
        import zarr
    except ImportError:
        pass
    else:
        zarr.save_array(str(tmp_path / "truth.zarr"), np.load(given / "truth.npy"))
        zarr.save_group(str(tmp_path / "group.zarr"), low=np.zeros(3), reference=np.load(given / "truth.npy"))
        kinds += [tmp_path / "truth.zarr", tmp_path / "group.zarr"]
    for path in kinds:
        other = scored(capsys, job, "--reference", path)
        assert {n: v for n, v in other.items() if n != "reference"} == {
            n: v for n, v in row.items() if n != "reference"
        }
        assert other["reference"].split()[1] == row["reference"].split()[1]


def test_the_table_shows_all_points_and_each_variable(given, job, capsys):
    code, out, err = run(capsys, "score", job, "--reference", given / "truth.npy")
    assert code == 0, err
    assert f"{INPUTS} inputs, {MEMBERS} members of each, reference: truth.npy" in " ".join(out.split())
    for word in ("all", "variable 0", "variable 2", "CRPS, fair", "spread / skill"):
        assert word in out
    assert len(out.rpartition("1 is flat:")[2].split()) == MEMBERS + 1


def test_pictures_are_scored_as_bytes(given, tmp_path, capsys):
    """8-bit pixels against 8-bit truths, in the model's shape; floats are refused."""
    out = drawn(tmp_path / "out", given, format="png", pixels="uint8")
    truth = np.clip(np.load(given / "truth.npy") * 127.5 + 128, 0, 255).astype(np.uint8)
    np.save(tmp_path / "bytes.npy", truth)
    np.save(tmp_path / "low.npy", np.load(given / "low.npy"))
    row = scored(capsys, out, "--reference", tmp_path / "bytes.npy")
    near(row, expected(tmp_path, "bytes.npy", lambda x: np.moveaxis(to_uint8(x), -1, 1)))
    code, _, err = run(capsys, "score", out, "--reference", given / "truth.npy")
    assert code == 2 and "are uint8, and truths in" in err and "--pixels float32" in err


def test_what_is_missing_is_named_by_its_input(given, tmp_path, job):
    out = drawn(tmp_path / "out", given)
    last = sorted((out / "samples").iterdir())[-1]
    last.unlink()
    with pytest.raises(OutputError, match=r"input 4 \(from 0\) of .* has 2 of 4 members"):
        list(open_ensembles(out))
    for path in (out / "samples").iterdir():
        path.unlink()
    with pytest.raises(OutputError, match=r"input 0 \(from 0\) of .* has 0 of 4 members"):
        list(open_ensembles(out))


def test_a_job_without_inputs_is_no_ensemble(tmp_path):
    plain = rs.Denoiser.from_function(lambda x, sigma: 0 * x, (1, 4, 4))
    assert run_job(plain, PLAN, "0-3", tmp_path / "out", sheets=0) == []
    assert open_ensembles(tmp_path / "out") is None
    assert open_ensembles(tmp_path) is None


def test_images_that_are_kept_are_inputs_too(given, tmp_path, capsys):
    """A job of several samples of each known image: truths in a .npy make it ensembles, an .npz a set of images."""
    plain = rs.Denoiser.from_function(lambda x, sigma: 0 * x, SHAPE)
    known, mask = read_images("known", given / "truth.npy", SHAPE), torch.ones(1, 4, 5)
    mask[:, :2] = 0
    inputs, options = Inputs.read(plain, images=known, per_input=3), {"format": "npz", "pixels": "float32", "sheets": 0}
    out = tmp_path / "out"
    assert run_job(plain, PLAN, None, out, inputs=inputs, known=known, mask=mask, **options) == []
    row = scored(capsys, out, "--reference", given / "truth.npy")
    truth = np.load(given / "truth.npy")
    assert row["members"] == 3 and row["rmse"] == pytest.approx(np.sqrt((truth[:, :, 2:] ** 2).sum() / truth.size))
    found = open_ensembles(out)
    assert not found.scored(None) and not found.scored(given / "truth.npz")
    assert replace(found, record={**found.record, "inputs": {"kind": "conditions"}}).scored(None)


def test_bad_references_are_one_sentence(given, job, tmp_path, capsys):
    truth = np.load(given / "truth.npy")
    holed = truth.copy()
    holed[3, 1] = np.nan
    for name, array in {"holed": holed, "few": truth[:4], "narrow": truth[..., :4], "flat": truth.reshape(-1)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "two.npz", a=truth, b=truth)
    (tmp_path / "text.npy").write_bytes(b"no array")
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    for name, message in {
        "holed.npy": "has NaN or infinite values at input 3 (from 0)",
        "few.npy": f"has truths of 4 inputs, and {job} has samples of 5",
        "narrow.npy": "has truths of the shape [3, 4, 4], and samples have [3, 4, 5]; it must be [inputs, 3, 4, 5]",
        "flat.npy": "a reference is an array of numbers [inputs, …]",
        "words.npy": "a reference is an array of numbers [inputs, …]",
        "two.npz": "holds the arrays a, b; call one of them reference",
        "text.npy": "cannot be read",
        "none.npy": "there is no reference",
        "truth.csv": "is no reference that is known (.npy, .npz, .zarr)",
    }.items():
        code, out, err = run(capsys, "score", job, "--reference", tmp_path / name)
        assert (code, out) == (2, ""), name
        assert message in " ".join(err.split()), (name, err)
    code, _, err = run(capsys, "score", job)
    assert code == 2 and "give their truths as --reference FILE" in " ".join(err.split())
