"""run.json, log.jsonl and manifests that people or chance have changed: one sentence and exit code 2, or the right
numbers.
"""

from __future__ import annotations

import json
import math
import random
import shutil

import pytest
import torch
from support import killing
from support.commands import run

import restart_sampling as rs
from restart_sampling.cli.app import main
from restart_sampling.common.errors import OutputError, RestartValueError
from restart_sampling.jobs import events, record
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.shards import Shards, check_number
from restart_sampling.models import build_network, save_safetensors

SMALL = dict(
    class_name="EDMPrecond",
    model_type="SongUNet",
    img_resolution=8,
    img_channels=1,
    label_dim=3,
    model_channels=8,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[],
)
OPTIONS = ["--steps", "2", "--seeds", "0-9", "--shard-size", "4", "--format", "npz", "--batch", "4"]


def refused(capsys, *arguments):
    """The one line that a refused command says."""
    code, _, err = run(capsys, *arguments)
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a model file and a finished job of it, 10 seeds in shards of 4; not to be changed."""
    base = tmp_path_factory.mktemp("job")
    save_safetensors(
        base / "m.safetensors", build_network(SMALL, seed=0), {"classes": ["cat", "dog", "Sneaker"]}, torch.float32
    )
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--model", str(base / "m.safetensors"), *OPTIONS, "--out", str(base / "job")])
    assert not stop.value.code
    return base


@pytest.fixture
def job(finished, tmp_path):
    """A copy of the job, to be changed."""
    shutil.copytree(finished / "job", tmp_path / "job")
    return tmp_path / "job"


def change(job, seal=False, old=False, **entries):
    """Write run.json with other entries (`...` removes one).

    `seal` makes its digests agree; `old` leaves out the digest of the job.
    """
    path = job / "run.json"
    values = json.loads(path.read_text())
    for name, value in entries.items():
        if value is ...:
            del values[name]
        else:
            values[name] = value
    if seal:
        values["plan_digest"] = record.digest(values["plan"])
        values = record.seal(values)
    if old:
        values.pop("job_digest", None)
    path.write_text(json.dumps(values))


def commands(finished, job, tmp_path):
    """Everything that reads a run.json: status, verify, repeat, repair and resume."""
    model = finished / "m.safetensors"
    return (
        ("status", job),
        ("status", job, "--json"),
        ("verify", job),
        ("verify", job, "--repair"),
        ("generate", "--repeat", job / "run.json", "--out", tmp_path / "again"),
        ("generate", "--model", model, *OPTIONS, "--out", job),
    )


# --- what a run.json may say -------------------------------------------------------------------------------------

NESTED = "[" * 100_000 + "]" * 100_000
WRONG = {
    "batch of 10^12": ({"batch": 10**12}, "'batch' must be an integer from 1 to"),
    "batch true": ({"batch": True}, "'batch' must be an integer"),
    "dtype a list": ({"dtype": []}, "'dtype' must be text"),
    "device a number": ({"device": 5}, "'device' must be text"),
    "class a number": ({"class": 5}, "'class' must be text of 1 to 4096 characters or null, got 5"),
    "model a number": ({"model": 5}, "'model' must be text"),
    "SHA-256 a number": ({"model_sha256": 5}, "'model_sha256' must be 64 hexadecimal digits or null"),
    "no model": ({"model": ...}, "the entry 'model' is missing"),
    "no nfe": ({"nfe": ...}, "the entry 'nfe' is missing"),
    "no subfolders": ({"subfolders": ...}, "the entry 'subfolders' is missing"),
    "no plan_digest": ({"plan_digest": ...}, "the entry 'plan_digest' is missing"),
    "plan a list": ({"plan": [1]}, "'plan' must be an object"),
    "nfe text": ({"nfe": "3"}, "'nfe' must be an integer"),
    "seeds a number": ({"seeds": 5}, "'seeds' must be text"),
    "seeds no seeds": ({"seeds": "a-b", "job_digest": ...}, "bad part 'a-b'"),
    "all seeds there are": ({"seeds": "0-9223372036854775806", "job_digest": ...}, "a job has at most"),
    "a seed in each shard": (
        {"seeds": "0-99999999999:1001", "shard_size": 1000, "job_digest": ...},
        "a job has at most",
    ),
    "shard size 0": ({"shard_size": 0}, "'shard_size' must be an integer from 1"),
    "format of another program": ({"format": "bmp", "job_digest": ...}, "format must be one of png"),
    "format of a later version": ({"format_version": 99}, "format version 99"),
    "other steps": ({"plan": {"steps": 4}}, "'plan' is not the plan that 'plan_digest' names"),
    "fewer seeds": ({"seeds": "0-3"}, "'job_digest' is that of other values"),
    "more seeds": ({"seeds": "0-99"}, "'job_digest' is that of other values"),
    "another class": ({"class": "dog"}, "'job_digest' is that of other values"),
    "other evaluations": ({"nfe": 99}, "'job_digest' is that of other values"),
    "another scheme": ({"noise": "philox-v2"}, "'job_digest' is that of other values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_entry_is_one_sentence_for_every_command(name, finished, job, tmp_path, capsys):
    entries, message = WRONG[name]
    change(job, **entries)
    before = sorted(p.name for p in job.iterdir())
    for command in commands(finished, job, tmp_path):
        assert message in refused(capsys, *command), command
    assert sorted(p.name for p in job.iterdir()) == before and not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "it holds [], not an object"),
        ('{"plan": ' + NESTED + "}", "it is nested too deeply"),
        ('{"batch": NaN}', "NaN is not allowed"),
        ('{"batch": 1e999}', "the number 1e999 is too large"),
        ('{"model": "\\ud800"}', "lone surrogate"),
        (b"\xff\xfe", "can't decode"),
    ],
)
def test_a_file_that_is_no_record(content, message, finished, job, tmp_path, capsys):
    (job / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in commands(finished, job, tmp_path):
        assert message in refused(capsys, *command), command


def test_steps_that_were_changed_pass_nowhere_not_even_with_a_new_plan_digest(finished, job, tmp_path, capsys):
    """The digests are those of the plan as the engine names it, so a made-up one does not help."""
    values = json.loads((job / "run.json").read_text())
    assert values["plan_digest"] == rs.Plan.build(**values["plan"]).digest == record.digest(values["plan"])
    other = rs.Plan.build(steps=4)
    change(job, plan=json.loads(json.dumps(other.config.to_dict())), plan_digest=other.digest)
    for command in commands(finished, job, tmp_path):
        assert "'job_digest' is that of other values" in refused(capsys, *command)


def test_entries_that_decide_nothing_may_be_edited(job, capsys):
    change(job, batch=3, device=None, command="by hand", model_path=None, remark=["mine"])
    assert run(capsys, "verify", job)[0] == 0
    assert run(capsys, "verify", job, "--repair")[0] == 0


def test_folders_of_before_the_digest_of_the_job_still_work(finished, job, tmp_path, capsys):
    change(job, old=True, format_version=..., model_path=...)
    for command in commands(finished, job, tmp_path):
        code, _, err = run(capsys, *command)
        assert code == 0, err
    code, out, _ = run(capsys, "status", job)
    assert "10 of 10 images (100.0%) in 3 shards" in out and out.splitlines()[-1] == "finished"


@pytest.mark.parametrize("command", ["status", "verify", "repair", "resume"])
def test_fewer_seeds_than_the_manifest_has_are_a_contradiction(command, job, finished, tmp_path, capsys):
    """In an old folder, where no digest says which of the two was changed: nothing is drawn, removed or counted."""
    change(job, old=True, seeds="0-1")
    manifest = (job / "manifest-0.jsonl").read_bytes()
    arguments = {
        "status": ("status", job),
        "verify": ("verify", job),
        "repair": ("verify", job, "--repair"),
        "resume": ("generate", "--repeat", job / "run.json", "--out", job),
    }[command]
    message = refused(capsys, *arguments)
    assert "contradicts itself: run.json asks for seeds 0-1, and the manifest has shard 0 with seeds 0-3" in message
    assert (job / "manifest-0.jsonl").read_bytes() == manifest


def test_a_line_of_seeds_that_are_not_the_job_s_is_damage_and_repaired(job, capsys):
    manifest = job / "manifest-0.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text(
        "".join(json.dumps(line | {"seeds": "0-5"} if line["shard"] == 0 else line) + "\n" for line in lines)
    )
    code, out, err = run(capsys, "verify", job)
    assert code == 3 and "damaged    the line of shard 0 (its seeds are not of this job)" in out, err
    code, out, _ = run(capsys, "status", job)
    assert "6 of 10 images (60.0%)" in out and "damaged: the line of shard 0" in out
    manifest_again = manifest.read_bytes()
    code, _, err = run(capsys, "generate", "--repeat", job / "run.json", "--out", job)
    said = "".join(err.split())  # the terminal's width breaks lines
    assert code == 0 and "thelineofshard0" in said and "isdamaged;itsshardisdrawnagain" in said
    manifest.write_bytes(manifest_again)
    assert run(capsys, "verify", job, "--repair")[0] == 0
    code, out, _ = run(capsys, "verify", job)
    assert code == 0 and "3 of 3 finished" in out


@pytest.mark.parametrize(
    "how, why", [("gone", "shard-000001.npz is not there"), ("cut", "shard-000001.npz should have")]
)
def test_status_looks_at_the_files(how, why, job, capsys):
    path = job / "samples/shard-000001.npz"
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = run(capsys, "status", job)
    assert code == 0 and f"broken: shard 1: {why}" in out and "finished" not in out
    assert f"verify {job} --repair" in out.splitlines()[-1]
    _, out, _ = run(capsys, "status", job, "--json")
    assert list(json.loads(out)["broken"]) == ["1"]


@pytest.mark.parametrize("batch", [10**12, 10**30])
def test_a_batch_that_no_record_may_have_is_refused_before_anything_is_written(batch, finished, tmp_path, capsys):
    model = finished / "m.safetensors"
    message = refused(capsys, "generate", "--model", model, *OPTIONS[:-1], batch, "--out", tmp_path / "a")
    assert "the job cannot be recorded in run.json: 'batch' must be an integer from 1 to" in message
    assert not (tmp_path / "a" / "run.json").exists()


def test_a_batch_beyond_the_seeds_takes_no_memory_for_them(finished, tmp_path, capsys):
    """2^31 lanes of 8 × 8 would be 550 GB for each register."""
    model = finished / "m.safetensors"
    code, _, err = run(capsys, "generate", "--model", model, *OPTIONS[:-1], 2**31, "--out", tmp_path / "a")
    assert code == 0, err
    assert (tmp_path / "a/samples/shard-000001.npz").read_bytes() == (
        finished / "job/samples/shard-000001.npz"
    ).read_bytes()


def test_a_small_disk_is_said_in_its_own_unit(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Disk", (), {"free": 3500}))
    model = ("--model", finished / "m.safetensors")
    message = refused(capsys, "generate", *model, "--steps", "2", "--seeds", "0-19", "--out", tmp_path / "a")
    assert "the run may write 5,280 bytes, and" in message and "has 3,500 bytes free" in message


def test_the_number_of_shards_is_bounded_without_making_one():
    check_number(rs.parse_seeds("0-9999999999"), 1000)
    check_number(rs.parse_seeds(",".join(str(7 * n) for n in range(1000))), 1_000_000)
    for text, size in (("0-9223372036854775806", 2**31), ("0-10000000", 1), ("0-99999999999:2000", 1000)):
        with pytest.raises(RestartValueError, match="a job has at most"):
            check_number(rs.parse_seeds(text), size)


def test_shards_of_many_parts_are_found_by_bisection():
    """Against the seeds themselves: parts that interleave, and others far apart."""
    text = ",".join(str(100 * n + 50) for n in range(290)) + ",1-20001:100,30000-30010"
    seeds = rs.parse_seeds(text)
    shards, every = Shards(seeds, 50), sorted(seeds)
    assert [seed for shard in shards for seed in shard.seeds] == every
    assert list(shards[10].seeds) == [seed for seed in every if 500 <= seed < 550]
    assert not shards[10**9].seeds and not shards[-1].seeds


# --- mutants -----------------------------------------------------------------------------------------------------

VALUES = [
    None,
    True,
    0,
    -1,
    5,
    2**31,
    10**12,
    2**63 - 2,
    10**400,
    1.5,
    math.inf,
    math.nan,
    "",
    "x",
    "\0",
    "a" * 5000,
    "\ud800",
    "[/x]",
    "0-9223372036854775806",
    "0-9223372036854775806:1001",
    "1,1",
    [],
    [[]],
    {},
    {"a": []},
    {"steps": 10**9},
]


def mutant(rng, value):
    """`value` (JSON) with one thing in it replaced, removed, doubled or wrapped."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(sorted(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != name}
        return value | {name: mutant(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], mutant(rng, value[at]), *value[at:]]
    return rng.choice([*VALUES, [value], {"x": value}])


def test_mutants_of_a_record_are_read_or_refused_in_a_sentence(job, trials):
    rng, good = random.Random(trials.start(15)), json.loads((job / "run.json").read_text())
    path, found = job / "mutant.json", {"read": 0, "refused": 0}
    for k in range(trials.count(600)):
        values = mutant(rng, good)
        if isinstance(values, dict) and k % 3 and isinstance(values.get("plan"), dict):
            values["plan_digest"] = record.digest(values["plan"])
            values.pop("job_digest", None)
        text = json.dumps(values)
        if k % 10 == 0:
            at = rng.randrange(len(text))
            text = text[:at] + chr(rng.randrange(1, 0x250)) + text[at + 1 :]
        path.write_text(text)
        try:
            values = record.read(path)
        except OutputError as error:
            found["refused"] += 1
            assert len(str(error)) < 600 and "\n" not in str(error)
        else:
            found["read"] += 1
            assert record.shards_of(values).count() <= 10_000_000
    assert min(found.values()) > 20, found


def test_mutants_of_a_manifest_s_lines_cost_their_shards_and_no_more(job, capsys, trials):
    rng, manifest = random.Random(trials.start(16)), job / "manifest-0.jsonl"
    good = [json.loads(line) for line in manifest.read_text().splitlines()]
    for _ in range(trials.count(30)):
        lines = [json.dumps(mutant(rng, line)) if k == 1 else json.dumps(line) for k, line in enumerate(good)]
        if rng.random() < 0.2:
            lines.append(NESTED)
        manifest.write_text("\n".join(lines) + "\n")
        code, out, _ = run(capsys, "status", job, "--json")
        found = json.loads(out)
        assert code == 0 and 6 <= found["images"] + len(found["nonfinite"]) <= 10
        assert run(capsys, "verify", job)[0] in (0, 1, 3)


@pytest.mark.parametrize("changed", [{"count": 10**12}, {"count": 0}, {"nonfinite": [10**6]}])
def test_a_line_that_does_not_count_its_seeds_is_damaged(job, capsys, changed):
    manifest = job / "manifest-0.jsonl"
    first, *others = (json.loads(line) for line in manifest.read_text().splitlines())
    manifest.write_text("".join(json.dumps(line) + "\n" for line in (first | changed, *others)))
    found = json.loads(run(capsys, "status", job, "--json")[1])
    assert found["images"] == sum(line["count"] for line in others) and found["nonfinite"] == []
    assert "its counts are not those of its seeds" in found["damaged"][0]
    assert run(capsys, "verify", job)[0] == 3


# --- where the model is ------------------------------------------------------------------------------------------


def test_a_relative_model_is_found_from_another_folder(finished, tmp_path, capsys, monkeypatch):
    """By the absolute path that is recorded; in a project that was moved, from the run's folder; else with --model."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    shutil.copy(finished / "m.safetensors", project / "m.safetensors")
    monkeypatch.chdir(project)
    assert run(capsys, "generate", "--model", "m.safetensors", *OPTIONS, "--out", "runs/a")[0] == 0
    values = json.loads((project / "runs/a/run.json").read_text())
    assert (values["model"], values["model_path"]) == ("m.safetensors", str((project / "m.safetensors").resolve()))
    monkeypatch.chdir(elsewhere)

    def repeat(*more, out):
        return run(capsys, "generate", "--repeat", project / "runs/a/run.json", "--out", out, *more)

    assert repeat(out="b")[0] == 0
    monkeypatch.chdir(project)  # a run far from its model: only the recorded path says where that is
    assert run(capsys, "generate", "--model", "m.safetensors", *OPTIONS, "--out", elsewhere / "far")[0] == 0
    monkeypatch.chdir(elsewhere)
    assert run(capsys, "generate", "--repeat", "far/run.json", "--out", "near")[0] == 0
    (project / "runs/a/samples/shard-000001.npz").unlink()
    assert run(capsys, "verify", project / "runs/a", "--repair")[0] == 0
    for name in ("shard-000000.npz", "shard-000001.npz"):
        drawn, wanted = (folder / "samples" / name for folder in (elsewhere / "b", finished / "job"))
        assert drawn.read_bytes() == wanted.read_bytes()

    project = project.rename(tmp_path / "moved")
    assert repeat(out="c")[0] == 0
    (project / "m.safetensors").rename(tmp_path / "weights.safetensors")
    code, _, err = repeat(out="d")
    assert code == 2 and "say with --model where it is now" in err
    assert repeat("--model", tmp_path / "weights.safetensors", out="d")[0] == 0
    (project / "runs/a/samples/shard-000001.npz").unlink()
    assert run(capsys, "verify", project / "runs/a", "--repair", "--model", tmp_path / "weights.safetensors")[0] == 0
    code, _, err = repeat("--model", "fashion-mnist", out="e")
    assert code == 2 and "are not those of the recorded run" in err
    code, _, err = repeat("--steps", "3", out="e")
    assert code == 2 and "leave out --steps" in err


def test_a_class_that_is_nearly_right(finished, tmp_path, capsys):
    arguments = ("generate", "--model", finished / "m.safetensors", *OPTIONS, "--out", tmp_path / "a", "--class")
    message = refused(capsys, *arguments, "sneakers")
    assert "class 'sneakers' does not exist" in message
    assert "(cat, dog, Sneaker); did you mean 'Sneaker'?" in message


# --- format versions ---------------------------------------------------------------------------------------------


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("shard-*.parquet")}


def test_parquet_says_to_datasets_what_its_columns_are(tmp_path):
    """The schema's entry "huggingface", as the documentation of `datasets` has it: the image column is an Image."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is in the extra `parquet`, which tests install")
    options = dict(batch=10, shard_size=10, format="parquet", sheets=0)
    run_job(killing.denoiser(), rs.Plan.build(**killing.PLAN), "0-9", tmp_path / "a", **options)
    run_job(killing.denoiser(), rs.Plan.build(**killing.PLAN), "0-9", tmp_path / "b", **options, pixels="float32")
    (image,), (sample,) = (list((tmp_path / name).rglob("shard-000000.parquet")) for name in "ab")
    features = json.loads(parquet.read_schema(image).metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "seed": {"dtype": "int64", "_type": "Value"},
        "plan": {"dtype": "string", "_type": "Value"},
        "image": {"_type": "Image"},
    }
    assert list(features) == parquet.read_schema(image).names
    features = json.loads(parquet.read_schema(sample).metadata[b"huggingface"])["info"]["features"]
    assert features["sample"]["length"] == 64 and features["sample"]["feature"]["dtype"] == "float32"


def test_a_job_keeps_the_format_it_began_with(tmp_path):
    """A resume of an older job, and a repeat of it, write the bytes of then: all shards of a job are alike."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is in the extra `parquet`, which tests install")
    plan, options = rs.Plan.build(**killing.PLAN), dict(batch=10, shard_size=10, format="parquet", sheets=0)
    run_job(killing.denoiser(), plan, "0-29", tmp_path / "old", **options, format_version=1)
    run_job(killing.denoiser(), plan, "0-9", tmp_path / "begun", **options, format_version=1)
    change(tmp_path / "begun", old=True, format_version=...)
    run_job(killing.denoiser(), plan, "0-29", tmp_path / "begun", **options)
    assert shards(tmp_path / "begun") == shards(tmp_path / "old")
    assert all(not parquet.read_schema(p).metadata for p in (tmp_path / "old").rglob("*.parquet"))
    run_job(killing.denoiser(), plan, "0-29", tmp_path / "new", **options)
    assert set(shards(tmp_path / "new")) == set(shards(tmp_path / "old")) and shards(tmp_path / "new") != shards(
        tmp_path / "old"
    )


# --- log.jsonl ---------------------------------------------------------------------------------------------------


def log(*lines):
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)


ODD = [
    "[1, 2]",
    "5",
    '"text"',
    "null",
    "{",
    NESTED,
    '{"event": "shard"}',
    '{"time": 5}',
    '{"time": "5", "event": "shard"}',
    '{"time": 1e999, "event": "shard"}',
    '{"time": 5, "event": []}',
    '{"time": 5, "event": "shard", "count": "many"}',
    '{"time": 5, "event": "shard", "count": -1}',
    '{"time": true, "event": "start"}',
    '{"time": 5, "event": "shard", "drawn": []}',
]


def test_lines_of_the_log_that_are_no_events(job, capsys):
    start, shard = ({"time": 100.0, "event": "start"}, {"time": 110.0, "event": "shard", "count": 50, "drawn": 50})
    (job / "log.jsonl").write_text(log(*ODD, start, *ODD, shard, *ODD))
    code, out, _ = run(capsys, "status", job, "--json")
    assert code == 0 and json.loads(out)["images_per_s"] == 5.0
    assert [event.event for event in events.tail(job / "log.jsonl")] == ["start", "shard"]
    (job / "log.jsonl").unlink()
    (job / "log.jsonl").mkdir()
    code, out, _ = run(capsys, "status", job, "--json")
    assert code == 0 and json.loads(out)["images_per_s"] is None


def rate(*lines):
    return events.images_per_second(list(events._events([json.dumps(line).encode() for line in lines])))


def steady(per_second, start, shards, size=100, rank=0, warm=0.0, drawn=0):
    """The log of a worker that draws `per_second`, after `warm` seconds."""
    yield {"time": start, "event": "start", "rank": rank}
    for k in range(1, shards + 1):
        yield {
            "time": start + warm + k * size / per_second,
            "event": "shard",
            "rank": rank,
            "count": size,
            "drawn": k * size - drawn,
        }


def test_the_speed_is_that_of_the_workers_and_not_of_the_pauses():
    """Each case by construction: a worker that draws 10 a second does so whatever happened before."""
    assert rate(*steady(10, 0, 5)) == pytest.approx(10)
    assert rate(*steady(10, 0, 5, warm=300)) == pytest.approx(10)  # compiling is not drawing
    assert rate(*steady(1, 0, 5), *steady(10, 100_000, 5)) == pytest.approx(10)  # after a restart, the new run's
    assert rate(*steady(10, 0, 5, drawn=90)) == pytest.approx(10)  # a shard that an earlier run had begun
    assert rate(*steady(0.01, 0, 3)) == pytest.approx(0.01)  # shards longer than the window
    assert rate(*steady(10, 0, 1)) == pytest.approx(10)
    assert rate(*steady(10, 0, 5, rank=0), *steady(30, 3, 15, rank=1)) == pytest.approx(40)
    assert rate(*steady(50, 0, 9, rank=1), *steady(10, 9000, 5, rank=0)) == pytest.approx(10)  # worker 1 is gone
    assert rate(*steady(10, 0, 0)) is None and rate() is None
    burst = [{"time": 10.0 + k / 1e6, "event": "shard", "count": 25, "drawn": 100} for k in range(4)]
    assert rate({"time": 0.0, "event": "start"}, *burst) == pytest.approx(10)  # four shards of one batch
    old = [{"time": 10.0 * k, "event": "shard", "count": 100} for k in range(1, 6)]
    assert rate({"time": 0.0, "event": "start"}, *old) == pytest.approx(10)  # a log without `drawn`


def test_a_log_of_many_small_shards_is_read_from_its_end(tmp_path):
    """Only the tail is read: the time that it covers counts, not the whole window."""
    path = tmp_path / "log.jsonl"
    path.write_text(log(*steady(1000, 0, 5000, size=1)))
    assert len(events.tail(path, 20_000)) < 300
    assert events.images_per_second(events.tail(path, 20_000)) == pytest.approx(1000, rel=0.01)


def test_the_log_says_what_was_drawn(tmp_path):
    plan = rs.Plan.build(**killing.PLAN)
    run_job(killing.denoiser(), plan, "0-39", tmp_path, batch=20, shard_size=10, format="npz", sheets=0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    shards = [line for line in lines if line["event"] == "shard"]
    assert sum(line["count"] for line in shards) == 40 == max(line["drawn"] for line in shards)
    assert all(line["drawn"] >= 20 for line in shards) and {line["rank"] for line in lines} == {0}
