"""Plan files: the recipe goes out and comes back, and a file that is not one is refused with one sentence."""

from __future__ import annotations

import json
import random

import pytest
from support.random_runs import plan_options

import restart_sampling as rs
from restart_sampling.cli.app import app
from restart_sampling.common.errors import ConfigError
from restart_sampling.plan.start import beginning


@pytest.mark.parametrize("name", [preset.name for preset in rs.presets()])
def test_every_preset_comes_back(name):
    plan = rs.preset(name)
    again = rs.Plan.from_json(plan.to_json())
    assert again.digest == plan.digest and again.rows == plan.rows and again.notes == plan.notes


def test_random_plans_come_back():
    rng, done = random.Random(7), 0
    while done < 200:
        try:
            options = plan_options(rng, rng.choice(["ve", "ve", "flow"]), rng.random() < 0.5, 48)
            plan = rs.Plan.build(**options)
        except rs.RestartError:
            continue
        done += 1
        again = rs.Plan.from_json(plan.to_json())
        assert again.digest == plan.digest and again.steps == plan.steps, options
        assert rs.Plan.from_json(json.loads(plan.to_json())).digest == plan.digest


@pytest.mark.parametrize(
    "options",
    [
        dict(steps=6, schedule="beta", schedule_options={"variant": "diffusers"}),
        dict(steps=6, schedule="simple", schedule_options={"process": "flow", "shift": 3.0}, solver="euler"),
        dict(sigmas=[80, 10, 1.5, 0.3], network_sigmas=[70, 11, 1.4, 0.31]),
        dict(steps=6, solver="unipc:order=2,variant=bh1", restart=[3, 2, 0.1, 0.5], restart_solver="heun"),
    ],
)
def test_newer_options_come_back(options):
    plan = rs.Plan.build(**options)
    again = rs.Plan.from_json(plan.to_json())
    assert again.digest == plan.digest and again.steps == plan.steps


def test_a_file_says_what_it_is():
    plan = rs.Plan.build(steps=5, restart=[3, 2, 0.1, 0.5])
    content = json.loads(plan.to_json())
    assert content["restart_sampling_plan"] == 1 and content["config"]["steps"] == 5
    assert (content["digest"], content["nfe"]) == (plan.digest, plan.nfe)
    assert content["notes"] == list(plan.notes) != []
    assert plan.to_json().endswith("\n")


def test_what_is_left_out_takes_its_default():
    assert rs.Plan.from_json('{"restart_sampling_plan": 1, "config": {"steps": 5}}').digest == rs.Plan.build(5).digest


def test_a_plan_of_a_network_is_not_written():
    plan = rs.Plan.build(steps=8)
    for other in (plan.for_network(0.01, 40.0), beginning(plan, strength=0.5)):
        if other.config == plan.config:
            with pytest.raises(ConfigError, match="moved to the levels of a network or begins at a lower level"):
                other.to_json()
        else:
            assert rs.Plan.from_json(other.to_json()).steps == other.steps


def changed(**fields):
    content = json.loads(rs.Plan.build(steps=5).to_json())
    return json.dumps({name: value for name, value in (content | fields).items() if value is not ...})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(digest="0" * 12), "says digest '000000000000', but its config has .*; it was edited"),
        (changed(nfe=8), "says nfe 8, but its config has 9"),
        (changed(nfe=True), "says nfe True"),
        (changed(config={"steps": 6}), "says digest"),
        (changed(restart_sampling_plan=2), "has version 2, and this package reads 1; install a newer"),
        (changed(restart_sampling_plan="1"), "restart_sampling_plan must be the number 1, got '1'"),
        (changed(restart_sampling_plan=0), "restart_sampling_plan must be the number 1, got 0"),
        (changed(restart_sampling_plan=...), "this is no plan file: it needs 'restart_sampling_plan'"),
        (changed(config=...), "this is no plan file"),
        (changed(config=[1]), "this is no plan file"),
        (changed(noets=[]), "a plan file has no field 'noets'; did you mean 'notes'"),
        (changed(config={"steps": 5, "stpes": 6}), "unknown plan option 'stpes'"),
        (changed(config={"steps": 1}), "steps must be an integer ≥ 2"),
        ("[]", "this is no plan file"),
        ("", "this is no plan file"),
        ('{"restart_sampling_plan": NaN}', "this is no plan file: NaN is not allowed"),
        ("[" * 5000, "this is no plan file"),
        (b"\xff\xfe", "this is no plan file"),
    ],
)
def test_refused(text, message):
    with pytest.raises(ConfigError, match=message) as info:
        rs.Plan.from_json(text)
    assert "\n" not in str(info.value) and len(str(info.value)) < 400


GITS = "[0, 12, 30, 44, 60] [80.0, 10.9836, 1.584, 0.1698, 0.002]\n"


def test_a_record_of_gits_is_the_levels(tmp_path):
    file = tmp_path / "dp_record.txt"
    file.write_text(GITS)
    assert rs.Plan.from_file(file).grid == (80.0, 10.9836, 1.584, 0.1698, 0.002, 0.0)
    file.write_text("\n[0 3 7]   [80. 1.5 0]\n")
    assert rs.Plan.from_file(file).grid == (80.0, 1.5, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GITS + "[0, 1] [80.0, 1.0]\n", "it holds 2 lists, of 5, 2 levels; keep the line"),
        ("[0, 1] [80.0, 1.0, 0.1]\n", "it has 2 indices and 3 levels"),
        ("[0, 1] 80.0\n", r"expected lines '\[indices\] \[levels\]' as GITS writes them"),
        ("[0, 1] [80.0, one]\n", "expected numbers, got '80.0, one'"),
        ("[0, 1] [1.0, 80.0]\n", "sigmas must be strictly descending"),
        ("hello", "this is no plan file"),
    ],
)
def test_damaged_records_name_their_file(tmp_path, text, message):
    file = tmp_path / "dp_record.txt"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as info:
        rs.Plan.from_file(str(file))
    assert str(info.value).startswith(f"{file}: ") and "\n" not in str(info.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read"):
        rs.Plan.from_file(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        rs.Plan.from_file(tmp_path)


def run(*words, capsys):
    with pytest.raises(SystemExit) as end:
        app(args=list(map(str, words)))
    output = capsys.readouterr()
    return end.value.code, output.out, output.err


def test_the_command_line_saves_and_reads_plans(tmp_path, capsys):
    file = tmp_path / "p.json"
    code, said, _ = run("plan", "--preset", "imagenet64-edm-623", "--save", file, capsys=capsys)
    plan = rs.Plan.from_file(file)
    assert code == 0 and said == plan.explain() and plan.digest == rs.preset("imagenet64-edm-623").digest
    _, said, _ = run("plan", "--plan", file, "--s-noise", "1.01", "--json", capsys=capsys)
    options = plan.config.to_dict() | {"s_noise": 1.01}
    assert json.loads(said)["plan"] == json.loads(json.dumps(rs.Plan.build(**options).config.to_dict()))
    _, said, _ = run("plan", "--plan", file, "--restart", "none", "--json", capsys=capsys)
    assert json.loads(said)["nfe"] == 2 * plan.config.steps - 1


def test_a_new_solver_or_grid_leaves_the_options_of_the_old_one_behind(tmp_path, capsys):
    file = tmp_path / "p.json"
    options = dict(steps=6, schedule="sd", schedule_options={"spacing": "leading"}, solver="unipc:order=2")
    file.write_text(rs.Plan.build(**options).to_json())
    _, said, _ = run("plan", "--plan", file, "--solver", "heun", "--schedule", "ays", "--json", capsys=capsys)
    config = json.loads(said)["plan"]
    assert config["solver"] == "heun" and not {"schedule_options", "solver_options"} & config.keys()
    _, said, _ = run("plan", "--plan", file, "--schedule-option", "steps_offset=0", "--json", capsys=capsys)
    assert dict(json.loads(said)["plan"]["schedule_options"]) == {"spacing": "leading", "steps_offset": 0}


def test_what_the_command_line_refuses(tmp_path, capsys):
    file = tmp_path / "p.json"
    file.write_text(rs.Plan.build(sigmas=[10, 1, 0.1]).to_json())
    code, _, said = run("plan", "--plan", file, "--preset", "fashion-mnist-22", capsys=capsys)
    assert code == 2 and "--plan and --preset are two plans to begin with; give one of them" in said
    for option, value in (("--steps", 5), ("--schedule", "ays"), ("--schedule-option", "segment=own")):
        code, _, said = run("plan", "--plan", file, option, value, capsys=capsys)
        assert code == 2 and f"{option} cannot go on top of" in said
    code, _, said = run("plan", "--schedule-option", "shift", capsys=capsys)
    assert code == 2 and "NAME=VALUE" in said
