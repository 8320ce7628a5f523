"""Inputs on the command line: `--conditions`, `--prompts`, `--per-prompt`, images; repeated, moved, and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from support.commands import run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def generate(tmp_path, capsys):
    """Run `generate` into tmp_path/NAME: (exit code, stderr in one line)."""

    def call(name, *arguments):
        code, _, err = run(capsys, "generate", "--out", tmp_path / name, "--sheets", "0", *arguments)
        return code, " ".join(err.split())

    return call


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.npz"
    np.savez(path, class_labels=np.eye(10, dtype=np.float32)[[3, 5, 8]])
    return path


def names(folder):
    return sorted(path.name for path in (folder / "samples").iterdir())


def pixels(folder):
    return [np.asarray(Image.open(folder / "samples" / name)).tolist() for name in names(folder)]


def test_members_of_each_condition(generate, classes, tmp_path):
    options = ["--conditions", classes, "--members", "2", "--first-seed", "7", "--steps", "3"]
    assert generate("out", *options)[0] == 0
    assert names(tmp_path / "out") == [f"{seed:06d}.png" for seed in range(7, 13)]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["inputs"]["per_input"] == 2
    code, err = generate("out", *options)
    assert code == 0
    assert "6 of 6" in err
    assert generate("class", "--class", "5", "--seeds", "9-10", "--steps", "3")[0] == 0
    assert pixels(tmp_path / "out")[2:4] == pixels(tmp_path / "class")  # condition 1 is class 5


def test_a_run_is_repeated_and_its_file_may_have_moved(generate, classes, tmp_path):
    assert generate("out", "--conditions", classes, "--members", "2", "--steps", "3")[0] == 0
    assert generate("again", "--repeat", tmp_path / "out")[0] == 0
    assert pixels(tmp_path / "again") == pixels(tmp_path / "out")
    moved = classes.rename(tmp_path / "moved.npz")
    code, err = generate("third", "--repeat", tmp_path / "out")
    assert code == 2
    assert "say with --conditions where they are now" in err
    assert generate("third", "--repeat", tmp_path / "out", "--conditions", moved)[0] == 0
    assert pixels(tmp_path / "third") == pixels(tmp_path / "out")
    np.savez(moved, class_labels=np.eye(10, dtype=np.float32)[[3, 5, 9]])
    code, err = generate("fourth", "--repeat", tmp_path / "out", "--conditions", moved)
    assert code == 2
    assert "not those of the recorded run" in err
    assert not (tmp_path / "fourth").exists()


def test_samples_of_each_start_image(generate, tmp_path):
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        Image.fromarray(np.full((28, 28), 80 * k, np.uint8)).save(tmp_path / "pictures" / f"{k}.png")
    options = ["--start-images", tmp_path / "pictures", "--strength", "0.5", "--steps", "4"]
    assert generate("out", *options, "--per-prompt", "2")[0] == 0
    assert len(names(tmp_path / "out")) == 6
    assert generate("again", "--repeat", tmp_path / "out")[0] == 0
    assert pixels(tmp_path / "again") == pixels(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--members", "2"], "--per-prompt is of inputs; give --prompts, --conditions, or a folder as --start"),
        (["--prompts", "{file}"], "'fashion-mnist-edm2' takes no prompts; give --conditions, or the folder of a"),
        (["--conditions", "{file}", "--seeds", "0-3"], "--seeds cannot be given with inputs"),
        (["--conditions", "{file}", "--prompts", "{file}"], "give one of a file of prompts, a file of conditions"),
        (["--conditions", "{file}", "--members", "0"], "per_input must be"),
        (["--conditions", "nowhere.npz"], "there is no file of conditions"),
        (["--conditions", "{file}", "--prompt-column", "x"], "prompt_column and negative are of prompts; leave them"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(generate, classes, tmp_path, arguments, said):
    code, err = generate("out", "--steps", "3", *(text.format(file=classes) for text in arguments))
    assert code == 2
    assert said in err
    assert not (tmp_path / "out").exists()
