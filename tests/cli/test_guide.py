"""`--guide`: a second network on the command line, recorded, refused where it differs, and shown."""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np
import pytest
from support import edm2_golden
from support.commands import run

import restart_sampling as rs
from restart_sampling.cli import generate as command
from restart_sampling.cli.report import _live
from restart_sampling.experiments.profile.commands import job_command
from restart_sampling.experiments.report.commands import commands_for
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.job import Definition
from restart_sampling.models import save_safetensors

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = ["--steps", "3", "--seeds", "0-3"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of an EDM2 network and of two guides without classes, of the same form."""
    folder = tmp_path_factory.mktemp("models")
    for name, first, config in (
        ("main", 0, {}),
        ("guide", 500, {"model_channels": 16, "label_dim": 0}),
        ("other", 700, {"model_channels": 16, "label_dim": 0}),
    ):
        save_safetensors(folder / f"{name}.safetensors", edm2_golden.network(config, first=first), {})
    return folder


@pytest.fixture
def generate(files, tmp_path, capsys):
    """Run `generate` with these networks into tmp_path/NAME: (exit code, stderr)."""

    def call(name, *arguments, model="main", guide="guide", scale=True):
        command = ["generate", *STEPS, "--format", "npz", "--pixels", "float32", "--out", tmp_path / name]
        command += ["--model", files / f"{model}.safetensors"] * (model is not None)
        command += ["--guide", files / f"{guide}.safetensors"] * (guide is not None)
        command += ["--guidance-scale", "1.7"] * scale
        code, _, err = run(capsys, *command, *arguments)
        return code, err

    return call


def samples(folder):
    return np.load(next((folder / "samples").glob("*.npz")))["arr_0"]


def test_the_samples_are_those_of_the_two_networks(generate, files, tmp_path):
    code, err = generate("a")
    assert code == 0, err
    assert "4 images of main.safetensors guided by guide.safetensors" in err
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    den = rs.load(files / "main.safetensors", guide=files / "guide.safetensors")
    assert record["model_sha256"] == rs.load(files / "main.safetensors").info["sha256"]
    assert record["guide_sha256"] == rs.load(files / "guide.safetensors").info["sha256"]
    assert record["guide"] == record["guide_path"] == str(files / "guide.safetensors")
    assert record["guide_null"] is False
    want = rs.sample(den, rs.Plan.build(steps=3, guidance_scale=1.7), range(4)).numpy()
    assert np.abs(samples(tmp_path / "a") - want).max() <= 1e-5 * np.abs(want).max()


def test_a_run_without_a_guide_records_none(generate, tmp_path):
    assert generate("a", guide=None, scale=False)[0] == 0
    assert not [name for name in json.loads((tmp_path / "a" / "run.json").read_text()) if name.startswith("guide")]


def test_another_guide_is_another_job(generate, tmp_path, capsys):
    assert generate("a")[0] == 0
    before = (tmp_path / "a" / "run.json").read_bytes()
    code, err = generate("a", "--seeds", "0-7", guide="other")
    assert code == 2 and "the folder holds another job: guide_sha256 is" in err
    code, err = generate("a", guide=None, scale=False)
    assert code == 2 and "guide_sha256 is" in err and "there and null here" in err
    assert (tmp_path / "a" / "run.json").read_bytes() == before
    code, err = generate("a", "--seeds", "0-7")
    assert code == 0 and len(samples(tmp_path / "a")) == 8
    code, out, _ = run(capsys, "status", tmp_path / "a")
    assert code == 0 and "main.safetensors guided by " in out and "guide.safetensors, plan " in out
    assert json.loads(run(capsys, "status", "--json", tmp_path / "a")[1])["guide"].endswith("guide.safetensors")


def test_the_same_file_as_a_guide_told_the_null_is_another_job(tmp_path, capsys):
    command = ["generate", *STEPS, "--guidance-scale", "2", "--guide", "fashion-mnist", "--out", tmp_path / "a"]
    assert run(capsys, *command)[0] == 0
    code, _, err = run(capsys, *command, "--guide-null")
    assert code == 2 and "guide_null is false there and true here" in err


def test_repeat_loads_both_and_refuses_other_weights(generate, files, tmp_path, capsys):
    assert generate("a", "--guidance-interval", "0.1,5")[0] == 0
    again = ["generate", "--repeat", tmp_path / "a", "--out"]
    assert run(capsys, *again, tmp_path / "b")[0] == 0
    assert np.array_equal(samples(tmp_path / "a"), samples(tmp_path / "b"))
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((files / "guide.safetensors").read_bytes())
    assert run(capsys, *again, tmp_path / "c", "--guide", moved)[0] == 0
    code, _, err = run(capsys, *again, tmp_path / "d", "--guide", files / "other.safetensors")
    assert code == 2 and "other.safetensors' are not those of the recorded run" in err and "with --guide if" in err
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    changed = json.dumps(record | {"guide_path": "/nowhere/x", "guide": "nowhere/x"})
    (tmp_path / "a" / "run.json").write_text(changed)
    code, _, err = run(capsys, *again, tmp_path / "e")
    assert code == 2 and "is not at /nowhere/x; say with --guide where it is now" in err
    (tmp_path / "a" / "run.json").write_text(json.dumps(record | {"guide_null": True}))
    code, _, err = run(capsys, *again, tmp_path / "f")
    assert code == 2 and "'job_digest' is that of other values" in err


def test_a_repeat_without_a_guide_takes_none(generate, files, tmp_path, capsys):
    assert generate("a", guide=None, scale=False)[0] == 0
    code, _, err = run(
        capsys, "generate", "--repeat", tmp_path / "a", "--guide", files / "guide.safetensors", "--out", tmp_path / "b"
    )
    assert code == 2 and "has no guide; leave out --guide" in err


def test_repair_says_where_the_guide_is(generate, files, tmp_path, capsys):
    assert generate("a")[0] == 0
    want = samples(tmp_path / "a")
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((files / "guide.safetensors").read_bytes())
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    changed = json.dumps(record | {"guide_path": "/nowhere/x", "guide": "nowhere/x"})
    (tmp_path / "a" / "run.json").write_text(changed)
    next((tmp_path / "a" / "samples").glob("*.npz")).unlink()
    assert run(capsys, "verify", tmp_path / "a", "--repair")[0] == 2
    assert run(capsys, "verify", tmp_path / "a", "--repair", "--guide", moved)[0] == 0
    assert np.array_equal(samples(tmp_path / "a"), want)


def test_saved_pieces_of_a_job_with_another_guide_are_not_its_own(generate, tmp_path):
    """Samples of unfinished shards are kept under the job's identity; without a guide it is what it was."""
    assert generate("a")[0] == 0
    record = Definition.read(tmp_path / "a").record
    changed = [record, record | {"guide_sha256": "0" * 64}, record | {"guide_null": True}]
    bare = {name: value for name, value in record.items() if not name.startswith("guide")}
    assert len({Definition(r).identity for r in [*changed, bare]}) == 4
    same = [
        bare[name] for name in ("model_sha256", "plan", "class", "dtype", "format", "pixels", "shard_size", "noise")
    ]
    assert Definition(bare).identity == sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def test_jobs_in_python_record_it_too(files, tmp_path):
    den = rs.load(files / "main.safetensors", guide=files / "guide.safetensors")
    plan = rs.Plan.build(steps=3, guidance_scale=1.7)
    assert run_job(den, plan, "0-1", tmp_path / "a", format="npz", pixels="float32") == []
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert (record["model"], record["guide"]) == ("main.safetensors", "guide.safetensors")
    with pytest.raises(rs.RestartError, match="guide_null is false there and true here"):
        null = rs.load(files / "main.safetensors", guide=files / "guide.safetensors", guide_null=True)
        run_job(null, plan, "0-1", tmp_path / "a", format="npz", pixels="float32")


BAD = {
    "a guide that no plan calls": (["--guide", "fashion-mnist"], "the guide would never be called"),
    "a guide that is not there": (["--guide", "fashion", "--guidance-scale", "2"], "no model file 'fashion'"),
    "no guide to be told": (["--guide-null", "--guidance-scale", "2"], "--guide-null says what --guide is told"),
}


@pytest.mark.parametrize("command", ["generate", "profile"])
@pytest.mark.parametrize("name", BAD)
def test_bad_guides_are_one_line_and_exit_code_2(name, command, tmp_path, capsys):
    options, reason = BAD[name]
    code, _, err = run(capsys, command, "--steps", "2", *options, "--out", tmp_path / "x")
    assert code == 2 and reason in err and err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_profile_calls_both(files, tmp_path, capsys):
    command = ["profile", "--model", files / "main.safetensors", "--guide", files / "guide.safetensors"]
    options = ["--guidance-scale", "1.7", "--steps", "3", "--batch", "2", "--tool", "torch", "--out", tmp_path / "p"]
    code, _, err = run(capsys, *command, *options)
    assert code == 0, err


def test_the_job_that_nsight_profiles_has_the_guide():
    words = job_command("python", {"guide": "g.pkl", "guide_null": True, "batch": None, "tool": "job"})
    assert words[3:] == ["profile", "--guide", "g.pkl", "--guide-null", "--tool", "job"]


def test_a_worker_elsewhere_loads_the_same_two(files, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    load = command._loader({"model": "main.safetensors", "guide": "guide.safetensors", "guide_null": None})
    monkeypatch.chdir(tmp_path)
    assert (
        load().info["sha256"] == rs.load(files / "main.safetensors", guide=files / "guide.safetensors").info["sha256"]
    )
    load = command._loader({"model": "fashion-mnist", "guide": "fashion-mnist", "guide_null": True})
    assert load().info["guide"]["null"]


PRESET = "preset:edm2-img512-s-interval-fid"


def test_bench_measures_guided_plans_and_report_finds_the_guide(files, tmp_path, capsys, monkeypatch):
    main, guide = str(files / "main.safetensors"), str(files / "guide.safetensors")
    bench = ["bench", "--model", main, "--nfe", "63", "--rounds", "1", "--batch", "1", "--out", tmp_path / "b"]
    code, _, err = run(capsys, *bench, "--samplers", PRESET, "--guide", guide)
    assert code == 0, err
    (row,) = [json.loads(line) for line in (tmp_path / "b" / "speed.jsonl").read_text().splitlines()]
    assert (row["model"], row["guide"], row["nfe"], row["network_calls"]) == (main, guide, 63, 77)
    assert rs.load(main, guide=guide).info["sha256"].startswith(row["model_sha256"])
    (commands,) = commands_for([row], ["b"])
    assert all(f"--model {main}" in text for text in (commands.speed, commands.tune, commands.report))
    assert f"--guide {guide} --samplers" in commands.speed
    assert "--guide-null --samplers" in commands_for([row | {"guide_null": True}], ["b"])[0].speed
    plan = rs.Plan.build(guidance_scale=2.0, guidance_interval=(0.2, None), guidance_interval_rounding="grid")
    search = {"kind": "trial", "model": main, "guide": guide, "guide_null": True, "config": plan.config.to_dict()}
    told = f"--guide {guide} --guide-null --guidance-scale 2.0 --guidance-interval 0.2,inf"
    assert f"{told} --guidance-interval-rounding grid" in commands_for([search], ["b"])[0].tune
    seen = []
    monkeypatch.setattr("restart_sampling.cli.report._draw", lambda den, *rest: seen.append((den.guide, rest)))
    _live([row], None, None)
    assert seen[0][0].name == "guide.safetensors" and seen[0][1] == (main, ())
    _live([row], main, str(files / "other.safetensors"))
    assert "has other weights now" in seen[1][1][1][0]
    null = rs.load("fashion-mnist", guide="fashion-mnist", guide_null=True).info["sha256"][:12]
    row |= {"model": "fashion-mnist", "guide": "fashion-mnist", "guide_null": True, "model_sha256": null}
    _live([row], None, None)
    assert seen[2][1] == ("fashion-mnist", ())


def test_bench_refuses_a_guide_for_nothing(files, tmp_path, capsys):
    bench = ["bench", "--guide", "fashion-mnist", "--nfe", "63", "--out", tmp_path / "b", "--samplers"]
    code, _, err = run(capsys, *bench, "heun,torch/*")
    assert code == 2 and "the guide would never be called" in err
    code, _, err = run(capsys, *bench, PRESET, "--against", "HEAD")
    assert code == 2 and "--against times the engine without a guide" in err
