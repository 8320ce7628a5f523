"""What users, files and models name reaches the terminal as it is: no markup, no control characters, no traceback."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from support.commands import run

from restart_sampling.common import terminal
from restart_sampling.models import build_network, save_safetensors
from restart_sampling.models.files.weights import KEY

ENGINE = Path(terminal.__file__).parent
SMALL = dict(
    class_name="EDMPrecond",
    model_type="SongUNet",
    img_resolution=8,
    img_channels=1,
    label_dim=2,
    model_channels=8,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[],
)


# --- the mechanism -----------------------------------------------------------------------------------------------


def test_consoles_are_made_in_one_place():
    """A console or a column made elsewhere would read markup again."""
    for path in ENGINE.rglob("*.py"):
        text = path.read_text()
        if path.name != "terminal.py":
            assert not re.search(r"\b(Console|TextColumn)\(|rich\.print|from rich import print|from_markup", text), path


@pytest.mark.parametrize("text", ["[/nonsense]", "[red]x[/red]", ":smile:", "[link=x]", "a[b", "[/]"])
def test_text_is_shown_as_it_is(text):
    from rich.progress import Progress
    from rich.table import Table

    out = io.StringIO()
    console = terminal.plain_console(file=out, width=100)
    console.print(text)
    table = Table(text, title=text)
    table.add_row(text)
    console.print(table)
    with Progress(terminal.text_column("{task.fields[x]}"), console=console) as bar:
        bar.add_task("", x=text)
    assert out.getvalue().count(text) >= 5


def test_control_characters_and_surrogates_are_escaped(capsys):
    text = "a\x1b[31m\rb\ud800\u202e\x9b\n"
    assert terminal.printable(text) == "a\\x1b[31m\\rb\\ud800\\u202e\\x9b\n"
    out = io.StringIO()
    terminal.plain_console(file=out).print(text, "é → 靴")
    assert "\x1b" not in out.getvalue() and "é → 靴" in out.getvalue()
    terminal.error("two\nlines")
    assert capsys.readouterr().err == "error: two\\nlines\n"


def test_lists_say_that_they_are_cut():
    assert terminal.listed([1, 2, 3], 3) == "1, 2, 3"
    assert terminal.listed(range(2000), 2) == "0, 1, … and 1,998 more"


@pytest.mark.parametrize(
    "count, text",
    [(0, "0 bytes"), (3920, "3,920 bytes"), (51_200, "51.2 kB"), (2.5e7, "25.0 MB"), (3.2e12, "3,200.0 GB")],
)
def test_sizes_have_the_unit_that_suits_them(count, text):
    assert terminal.size(count) == text


# --- commands ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder and a model whose names and classes are markup."""
    base = tmp_path_factory.mktemp("odd") / "[/nonsense]"
    (base / "[").mkdir(parents=True)
    card = {
        "classes": ["[/red]", "b\x1b[2J"],
        "summary": "[/x]",
        "notes": ["[/note]\nloadable no"],
        "licence": {"[/k]": "[/v]"},
    }
    save_safetensors(base / "[/model].safetensors", build_network(SMALL, seed=0), card, torch.float32)
    return base


GENERATE = ("generate", "--steps", "2", "--seeds", "0-3", "--batch", "4")
ODD = {
    "generate": (*GENERATE, "--model", "[/model].safetensors", "--out", "[/out]"),
    "status": ("status", "[/out]"),
    "verify": ("verify", "[/out]"),
    "repeat": ("generate", "--repeat", "[/out]/run.json", "--out", "[/again]"),
    "models": ("models", "[/model].safetensors"),
    "inspect": ("models", "inspect", "[/model].safetensors"),
    "report": ("report", "[/out]", "--out", "[/page].html"),
}
REFUSED = {
    "out": (*GENERATE, "--out", "[/model].safetensors"),
    "class": (*GENERATE, "--model", "[/model].safetensors", "--class", "[/c]", "--out", "x"),
    "model": (*GENERATE, "--model", "[/m]", "--out", "x"),
    "solver": ("plan", "--solver", "[/s]"),
    "schedule": ("plan", "--schedule", "[/s]"),
    "preset": ("presets", "[/p]"),
    "restart": ("plan", "--restart", "[/r]"),
    "restart file": ("plan", "--restart", "@[/r]"),
    "status": ("status", "[/none]"),
    "bench": ("bench", "--samplers", "[/s]", "--rounds", "1"),
    "tune": ("tune", "--solver", "[/s]", "--trials", "1", "--out", "x"),
    "profile": ("profile", "--model", "[/m]"),
    "report": ("report", "[/none]"),
    "convert": ("convert", "[/model].safetensors", "[/target].safetensors"),
}


@pytest.mark.parametrize("name", ODD)
def test_names_that_look_like_markup(name, odd, capsys, monkeypatch):
    monkeypatch.chdir(odd)
    if name != "generate" and not (odd / "[/out]").exists():
        assert run(capsys, *ODD["generate"])[0] == 0
    code, out, err = run(capsys, *ODD[name])
    assert code == 0 or (name == "report" and code == 2), err
    assert "\x1b" not in out + err
    if name in ("models", "inspect"):
        assert "note        [/note]\\nloadable no" in out and "[/k]" in out
    if name == "models":
        assert "[/red], b\\x1b[2J" in out


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_look_like_markup_in_errors(name, odd, capsys, monkeypatch):
    monkeypatch.chdir(odd)
    code, _, err = run(capsys, *REFUSED[name])
    assert code == 2 and "Traceback" not in err
    assert "/" in err


@pytest.mark.parametrize("name", ["x" * 300, "y" * 5000])
def test_names_that_no_file_can_have(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (
        (*GENERATE, "--out", name),
        (*GENERATE, "--model", name, "--out", "x"),
        ("status", name),
        ("verify", name),
        ("verify", name, "--repair"),
        ("generate", "--repeat", name),
        ("models", name),
        ("models", "inspect", name),
        ("convert", name, "x.safetensors"),
        ("convert", "fashion-mnist", name + ".safetensors"),
        ("report", name),
        ("report", name, "--out", "x.html"),
        ("plan", "--restart", f"@{name}"),
    ):
        code, _, err = run(capsys, *command)
        assert code == 2, (command[:2], err)
        assert err.startswith("error: ") and err.count("\n") == 1, (command[:2], err)


def test_overwrite_where_a_file_has_become_a_folder(odd, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = (*GENERATE, "--model", odd / "[/model].safetensors", "--out", "a")
    assert run(capsys, *command)[0] == 0
    image = next(path for path in Path("a").rglob("000002.png"))
    image.unlink()
    image.mkdir()
    code, _, err = run(capsys, *command, "--overwrite")
    assert code == 2 and err.count("\n") == 1 and "000002.png: Is a directory; move it away" in err
    image.rmdir()
    code, _, err = run(capsys, *command, "--overwrite")
    assert code == 0, err


# --- text of model files -----------------------------------------------------------------------------------------


def rewritten(path, **changes):
    """A model file whose metadata entry says something else; `raw` replaces it whole."""
    network = build_network(SMALL, seed=0)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    meta = {"format": 1, "config": network.config, "card": {}} | {k: v for k, v in changes.items() if k != "raw"}
    path.write_bytes(save(tensors, metadata={KEY: changes.get("raw") or json.dumps(meta)}))
    return path


CARDS = {
    "a lone surrogate": (dict(card={"classes": ["\ud800", "b"]}), "lone surrogate"),
    "classes a number": (dict(card={"classes": 5}), "classes must be a list of names"),
    "classes of numbers": (dict(card={"classes": [1, 2]}), "classes must be a list of names"),
    "too few classes": (dict(card={"classes": ["a"]}), "names 1 classes, and the network has 2"),
    "infinity": (dict(raw='{"format": 1, "config": {"sigma_data": 1e999}, "card": {}}'), "1e999 is too large"),
    "nesting": (dict(raw='{"format": 1, "card": ' + "[" * 10**5 + "]" * 10**5 + "}"), "nested too deeply"),
    "a key of two lines": (dict(config=SMALL | {"a\nb\ud7ff\x1b[2J": 1}), "has no a"),
    "huge numbers": (dict(config=SMALL | {"label_dim": 10**400}), "label_dim must be an integer"),
}


@pytest.mark.parametrize("name", CARDS)
def test_headers_that_lie(name, tmp_path, capsys):
    changes, message = CARDS[name]
    path = rewritten(tmp_path / "m.safetensors", **changes)
    code, _, err = run(capsys, "models", path)
    assert code == 2 and message in err and err.count("\n") == 1 and "\x1b" not in err
    code, out, _ = run(capsys, "models", "inspect", path)
    assert code == 1 and len(out.splitlines()) == 3 and "loadable    no: " in out
    out.encode()


@pytest.mark.parametrize("end", ["Infinity", "1e999", "[]", '"x"', "null", "-1"])
def test_a_header_whose_offsets_are_no_offsets(end, tmp_path, capsys):
    header = f'{{"a": {{"dtype": "F32", "shape": [1], "data_offsets": [0, {end}]}}}}'.encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    code, _, err = run(capsys, "models", path)
    assert code == 2 and err.count("\n") == 1


# --- the process -------------------------------------------------------------------------------------------------

INTERRUPTING = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            {how}
sys.meta_path.insert(0, Finder())
sys.argv = ["restart-sampling", *{arguments!r}]
runpy.run_module("restart_sampling", run_name="__main__")
"""


@pytest.mark.parametrize(
    "module, arguments",
    [
        ("numpy", ["--help"]),
        ("typer", ["--help"]),
        ("restart_sampling.cli.tune", ["--help"]),
        ("torch", ["models"]),
        ("safetensors", ["models"]),
    ],
)
def test_an_interrupt_while_modules_are_imported_leaves_no_traceback(module, arguments):
    script = INTERRUPTING.format(module=module, arguments=arguments, how="os.kill(os.getpid(), signal.SIGINT)")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode in (130, -signal.SIGINT), result.stderr
    assert "Traceback" not in result.stderr and "KeyboardInterrupt" not in result.stderr
    assert result.returncode == -signal.SIGINT or result.stderr == "stopped\n"


def test_output_that_the_terminal_s_encoding_lacks(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "restart_sampling", "plan", "--steps", "4"]
    result = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert b"\\u2192" in result.stdout  # the arrow of "sigma 80 → 0"
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    command = [sys.executable, "-m", "restart_sampling", "status", folder]
    result = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert result.returncode == 2 and b"Traceback" not in result.stderr and b"\\udcff" in result.stderr
