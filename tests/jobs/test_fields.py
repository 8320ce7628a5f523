"""float32 samples as grids: one Zarr store for a job, a netCDF file for each shard; read by the libraries that do."""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import killing
from support.commands import run
from support.stored import PLAN, Network, draw, report, row, with_inputs

import restart_sampling as rs
from restart_sampling.common.errors import OutputError
from restart_sampling.jobs.formats.base import ShardData
from restart_sampling.jobs.formats.netcdf import encoded
from restart_sampling.jobs.formats.options import Options
from restart_sampling.jobs.formats.registry import find
from restart_sampling.jobs.formats.zarr import inner
from restart_sampling.jobs.manifest import Manifest
from restart_sampling.jobs.shards import Shards
from restart_sampling.jobs.workers import Worker

SHAPE, MEMBERS = (2, 3, 4), 4  # samples of an input: three inputs in each shard of 12
MODULES = {"zarr": "zarr", "netcdf": "netCDF4"}


@pytest.fixture(params=MODULES)
def format(request):
    pytest.importorskip(MODULES[request.param])
    return request.param


@pytest.fixture
def inputs(monkeypatch):
    with_inputs(monkeypatch, MEMBERS)


def fields(out, format, seeds="0-23", network=None, **options):
    return draw(out, network or Network(shape=SHAPE), seeds, format=format, pixels="float32", **options)


def samples(seeds=range(24)):
    return rs.Sampler(Network(shape=SHAPE).denoiser, PLAN, batch_size=24).run(seeds).numpy()


def read(out, format):
    """The variables of a job as its own library reads them, and their dimensions; of netCDF the shards in order."""
    if format == "zarr":
        import zarr

        group = zarr.open_group(str(out / "samples" / "samples.zarr"), mode="r")
        arrays = {name: group[name] for name in ("samples", "seed", "class") if name in group}
        return {name: a[...] for name, a in arrays.items()}, arrays["samples"].metadata.dimension_names
    import netCDF4

    found: dict[str, list[np.ndarray]] = {}
    for path in sorted((out / "samples").glob("*.nc")):
        with netCDF4.Dataset(path) as file:
            file.set_auto_mask(False)
            for name, variable in file.variables.items():
                values = variable[:]
                if name == "record":  # texts of one length in each file
                    values = np.array(
                        [text.tobytes().rstrip(b"\0") for text in values.reshape(-1, values.shape[-1])], object
                    )
                found.setdefault(name, []).append(values)
            dimensions = file["samples"].dimensions
    return {name: np.concatenate(some) for name, some in found.items() if name != "member"}, dimensions


# --- what is in them ---------------------------------------------------------------------------------------------


def test_samples_by_their_seeds(format, tmp_path):
    """Seeds with gaps: Zarr's axis is the seed, netCDF's files have those that are there."""
    seeds = [*range(10), 15, 30, 31]
    fields(tmp_path, format, "0-9,15,30-31")
    found, dimensions = read(tmp_path, format)
    assert tuple(dimensions) == ("sample", "channel", "y", "x") and "class" not in found
    if format == "netcdf":
        assert found["sample"].tolist() == seeds
        assert np.array_equal(found["samples"], samples(seeds))
    else:
        there = np.isin(np.arange(32), seeds)
        assert np.array_equal(found["samples"][seeds], samples(seeds))
        assert np.isnan(found["samples"][~there]).all()
        assert np.array_equal(found["seed"], np.where(there, np.arange(32), -1))
    assert (report(tmp_path).exit_code, report(tmp_path).images) == (0, 13)


def test_members_of_inputs(format, inputs, tmp_path):
    fields(tmp_path, format)
    found, dimensions = read(tmp_path, format)
    assert tuple(dimensions) == ("input", "member", "channel", "y", "x")
    assert np.array_equal(found["samples"], samples().reshape(6, MEMBERS, *SHAPE))
    assert np.array_equal(found["seed"], np.arange(24).reshape(6, MEMBERS))
    if format == "zarr":
        lines = [path.read_text().splitlines() for path in sorted((tmp_path / "samples" / "records").iterdir())]
        records = [json.loads(line) for some in lines for line in some]
    else:
        assert found["input"].tolist() == [*range(6)]
        records = [json.loads(text) for text in found["record"]]
    assert records == [{"seed": s, "class": None, "plan": PLAN.digest, **row(s, MEMBERS)} for s in range(24)]


def test_inputs_that_begin_at_another_seed(format, monkeypatch, tmp_path):
    with_inputs(monkeypatch, MEMBERS, first=36)
    fields(tmp_path, format, "36-59")
    found, _ = read(tmp_path, format)
    assert np.array_equal(found["samples"], samples(range(36, 60)).reshape(6, MEMBERS, *SHAPE))
    assert np.array_equal(found["seed"], np.arange(36, 60).reshape(6, MEMBERS))
    assert format == "zarr" or found["input"].tolist() == [*range(6)]
    assert (report(tmp_path).exit_code, report(tmp_path).images) == (0, 24)


def test_classes(format, tmp_path):
    fields(tmp_path, format, network=Network(shape=SHAPE, classes=10))
    assert read(tmp_path, format)[0]["class"].tolist() == rs.noise.class_labels(range(24), 10).tolist()


@pytest.mark.parametrize("per_input", [None, 3])
def test_samples_that_are_not_there(format, per_input, tmp_path):
    """Seeds 4 and 6 to 8 became NaN: their places are NaN and −1; an input without samples is in no netCDF file."""
    seeds = np.array([0, 1, 2, 3, 5, 9, 10, 11])
    images = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    options = Options(per_input=per_input, shard_size=12, shape=(5,))
    data = ShardData(Shards(rs.parse_seeds("0-11"), 12)[0], seeds, None, images, "p")
    find(format).write(tmp_path, data, options, "t")
    names = [*find(format).files(data.shard, seeds, options)]
    assert sorted(names) == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    if format == "netcdf":
        import netCDF4

        assert find(format).check(tmp_path / names[0]) == 8
        with netCDF4.Dataset(tmp_path / names[0]) as file:
            file.set_auto_mask(False)
            found = {name: variable[:] for name, variable in file.variables.items()}
        if per_input is None:
            assert np.array_equal(found["samples"], images) and found["sample"].tolist() == seeds.tolist()
        else:
            assert found["input"].tolist() == [0, 1, 3]
            assert found["seed"].tolist() == [[0, 1, 2], [3, -1, 5], [9, 10, 11]]
            assert np.array_equal(np.isnan(found["samples"]).all(-1), found["seed"] < 0)
            assert np.array_equal(found["samples"][found["seed"] >= 0], images)


def test_a_shard_without_samples_has_no_file_in_a_store(tmp_path):
    pytest.importorskip("zarr")
    options = Options(shard_size=12, shape=(5,))
    data = ShardData(
        Shards(rs.parse_seeds("0-11"), 12)[0], np.zeros(0, np.int64), None, np.zeros((0, 5), np.float32), ""
    )
    written = find("zarr").write(tmp_path, data, options, "t")
    assert (written.files, written.bytes) == (0, 0) and not [*tmp_path.iterdir()]
    assert [*find("zarr").files(data.shard, (), options)] == []


@pytest.mark.parametrize(
    "shape, per_input, size, want",
    [
        ((3, 512, 512), None, 1000, (1,)),  # 3 MB: a sample is a chunk
        ((1, 64, 64), None, 1000, (50,)),  # 16 kB: 64 would go into a megabyte, and 50 divide a shard
        ((7,), None, 1000, (1000,)),
        ((1, 64, 64), 10, 1000, (5, 10)),  # 6 inputs of 10 would go into it
        ((1, 64, 64), 100, 1000, (1, 50)),
        ((3, 512, 512), 4, 1000, (1, 1)),
    ],
)
def test_an_inner_chunk_has_whole_samples_and_at_most_a_megabyte(shape, per_input, size, want):
    assert inner(Options(per_input=per_input, shard_size=size), shape) == want


def test_room_for_samples_that_are_not_there_is_not_taken(tmp_path):
    """Four seeds of a shard of a million: the file holds those, and an index entry of 16 bytes for each inner chunk."""
    pytest.importorskip("zarr")
    fields(tmp_path, "zarr", "0-3", shard_size=1_000_000)
    (path,) = (tmp_path / "samples" / "samples.zarr" / "samples").glob("c.*")
    chunk = inner(Options(shard_size=1_000_000), SHAPE)[0]
    assert path.stat().st_size == chunk * 4 * 24 + 1_000_000 // chunk * 16 + 4


# --- the same bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_members", [False, True])
def test_bytes_depend_on_neither_batch_nor_workers_nor_order(with_members, format, monkeypatch, tmp_path):
    """A grown job has the files of one that was asked for whole, the metadata with them."""
    if with_members:
        with_inputs(monkeypatch, MEMBERS)
    fields(tmp_path / "a", format)
    want = killing.tree(tmp_path / "a")
    for rank in (1, 0):
        fields(tmp_path / "b", format, batch=11, worker=Worker(rank, 2))
    assert fields(tmp_path / "c", format, network=Network(1, SHAPE)).samples == 8 * PLAN.nfe
    assert fields(tmp_path / "c", format).samples == 16 * PLAN.nfe
    fields(tmp_path / "d", format, "4-7")
    fields(tmp_path / "d", format, "4-19")
    fields(tmp_path / "d", format)
    for name in "bcd":
        assert killing.tree(tmp_path / name) == want, name


@pytest.mark.parametrize("operation", ["os.fsync", "os.replace"])
def test_killed_at_a_write(operation, format, inputs, tmp_path):
    fields(tmp_path / "want", format)

    def killed(n):
        original, calls = pkgutil.resolve_name(operation), [0]

        def call(*arguments):
            calls[0] += 1
            if calls[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        setattr(os, operation.removeprefix("os."), call)
        fields(tmp_path / str(n), format, keep_seconds=0.0)

    codes = []
    for n in range(1, 100, 5):
        child = killing.fork(lambda n=n: killed(n))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if (tmp_path / str(n) / "run.json").exists():
            assert not report(tmp_path / str(n)).broken
        fields(tmp_path / str(n), format)
        assert killing.tree(tmp_path / str(n)) == killing.tree(tmp_path / "want")
        assert not list((tmp_path / str(n)).rglob(".*.tmp"))
        if codes[-1] == 0:
            break
    assert set(codes[:-1]) == {-signal.SIGKILL} and codes[-1] == 0


def test_the_writers_use_netcdf_one_at_a_time(monkeypatch):
    """Its library is not made for threads: two writers at once end in a crash of the process, sooner or later."""
    netcdf4 = pytest.importorskip("netCDF4")
    dataset, inside, most = netcdf4.Dataset, [0], [0]

    def counted(*arguments, **options):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return dataset(*arguments, **options)

    monkeypatch.setattr(netcdf4, "Dataset", counted)
    shard = Shards(rs.parse_seeds("0-3"), 4)[0]
    data = ShardData(shard, np.arange(4), None, np.zeros((4, 5), np.float32), "p")
    with ThreadPoolExecutor(4) as pool:
        files = [*pool.map(lambda _: encoded(data, Options(shard_size=4)), range(8))]
    assert most == [1] and len(set(files)) == 1


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 16, 16)], ids=str)
@pytest.mark.parametrize("more", [False, True])
def test_a_netcdf_file_made_in_memory_is_that_made_on_the_disk(shape, more, monkeypatch, tmp_path):
    netcdf4 = pytest.importorskip("netCDF4")
    rows = tuple(row(seed, 2) for seed in range(4)) if more else None
    images = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    data = ShardData(
        Shards(rs.parse_seeds("0-3"), 4)[0], np.arange(4), np.arange(4) if more else None, images, "p", (), rows
    )
    found = encoded(data, Options(shard_size=4, per_input=2 if more else None))
    dataset, path = netcdf4.Dataset, tmp_path / "a.nc"
    monkeypatch.setattr(netcdf4, "Dataset", lambda name, mode, format, memory: dataset(path, mode, format=format))
    with pytest.raises(TypeError):  # a file on the disk is closed without its bytes
        encoded(data, Options(shard_size=4, per_input=2 if more else None))
    assert found == path.read_bytes()


# --- damage ------------------------------------------------------------------------------------------------------


def test_metadata_that_are_gone_or_changed_cost_no_sample(tmp_path, capsys):
    """They belong to no shard: verify says so, and any run writes them again, without drawing."""
    pytest.importorskip("zarr")
    fields(tmp_path / "a", "zarr")
    want = killing.tree(tmp_path / "a")
    path = tmp_path / "a" / "samples" / "samples.zarr" / "samples" / "zarr.json"
    content = json.loads(path.read_text())
    damages = {
        "cannot be read": lambda: path.unlink(),
        "the axes of samples.zarr/samples are [12, 2, 3, 4], not [24, 2, 3, 4]": lambda: path.write_text(
            json.dumps(content | {"shape": [12, 2, 3, 4]})
        ),
        "metadata of samples.zarr": lambda: path.write_bytes(path.read_bytes()[:-9]),
    }
    for said, damage in damages.items():
        damage()
        found = report(tmp_path / "a")
        assert said in found.index and (found.exit_code, found.broken, found.images) == (3, {}, 24)
        code, out, err = run(capsys, "verify", tmp_path / "a")
        assert code == 3 and said in out and "the next run writes it again" in out and "mend it with" in err
        assert fields(tmp_path / "a", "zarr").samples == 0
        assert killing.tree(tmp_path / "a") == want and report(tmp_path / "a").exit_code == 0


@pytest.mark.parametrize("how", ["missing", "one bit", "cut"])
def test_verify_finds_what_is_broken(how, format, tmp_path):
    fields(tmp_path, format)
    want = killing.tree(tmp_path)
    name = {"zarr": "samples.zarr/samples/c.1.0.0.0", "netcdf": "shard-000001.nc"}[format]
    path = tmp_path / "samples" / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-5] if how == "cut" else content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert list(report(tmp_path).broken) == [1]
    if how == "one bit" and format == "zarr":  # of the checksum of the shard's index: it cannot be decoded either
        with pytest.raises(ValueError, match=r"\w"):
            find(format).check(path)
    Manifest.read(tmp_path).remove({1})
    fields(tmp_path, format)
    assert killing.tree(tmp_path) == want


def test_overwrite_leaves_nothing_of_a_store(inputs, tmp_path):
    pytest.importorskip("zarr")
    fields(tmp_path, "zarr")
    fields(tmp_path, "npz", "0-3", overwrite=True)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["shard-000000.npz"]


# --- refusals ----------------------------------------------------------------------------------------------------


def test_what_a_grid_cannot_hold_is_refused(format, monkeypatch, tmp_path):
    with pytest.raises(OutputError, match=f"--format {format} holds float32 pixels, not 'uint8'"):
        draw(tmp_path / "out", Network(shape=(3, 4, 4)), format=format)
    with pytest.raises(OutputError, match="holds arrays, so there is no encoding to choose"):
        fields(tmp_path / "out", format, encoding="png")
    if format == "zarr":
        with pytest.raises(OutputError, match=r"holds samples by their seeds, which must be below 1,099,511,627,776"):
            fields(tmp_path / "out", format, str(2**40))
    with_inputs(monkeypatch, 5)
    with pytest.raises(OutputError, match=r"5 samples for each and shards of 12 \(--shard-size 10 or 15 would do\)"):
        fields(tmp_path / "out", format)
    with_inputs(monkeypatch, 4, first=6)
    begins = "begins with a whole shard, and this job's first seed is 6 and its shards have 12"
    whole = "4 samples for each and its first seed is 6"
    with pytest.raises(OutputError, match=begins if format == "zarr" else whole):
        fields(tmp_path / "out", format, "6-29")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", MODULES)
def test_a_library_that_is_missing_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    with pytest.raises(OutputError, match=rf"needs {MODULES[name]}; install it with: pip install .*\[{name}\]"):
        find(name)


# --- other libraries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_members", [False, True])
def test_xarray_opens_the_whole_job(with_members, format, monkeypatch, tmp_path):
    xarray = pytest.importorskip("xarray")
    if with_members:
        with_inputs(monkeypatch, MEMBERS)
    fields(tmp_path, format, network=Network(shape=SHAPE, classes=10))
    if format == "zarr":
        table = xarray.open_zarr(str(tmp_path / "samples" / "samples.zarr"), consolidated=False, chunks=None)
    else:
        files = sorted(str(path) for path in (tmp_path / "samples").glob("*.nc"))
        opened = [xarray.open_dataset(file) for file in files]
        table = xarray.combine_by_coords(opened)
    lead = ("input", "member") if with_members else ("sample",)
    assert table["samples"].dims == (*lead, "channel", "y", "x")
    assert {"class"} <= set(table["samples"].coords)
    want = rs.Sampler(Network(shape=SHAPE, classes=10).denoiser, PLAN, batch_size=24).run(range(24)).numpy()
    assert np.array_equal(table["samples"].values.reshape(24, *SHAPE), want)
    assert table["class"].values.reshape(-1).tolist() == rs.noise.class_labels(range(24), 10).tolist()
    if with_members:
        assert table["samples"].sel(input=4, member=2).values.tolist() == want[18].tolist()
