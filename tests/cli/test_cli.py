"""The command line, as a person types it: results, exit codes, one-line errors."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from PIL import Image

import restart_sampling as rs
from restart_sampling.cli.app import main

FAST = ["--steps", "4", "--batch", "8"]


def run(arguments, capsys):
    """(exit code, stdout, stderr) of one call."""
    code = 0
    try:
        main(arguments)
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


RECORDS = ["log.jsonl", "manifest-0.jsonl", "run.json", "samples"]


def files(folder):
    """What a person sees in the folder."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_generate_writes_images_a_sheet_and_the_record(tmp_path, capsys):
    out = tmp_path / "a"
    code, _, err = run(
        ["generate", *FAST, "--restart", "[3, 1, 0.1, 2.0]", "--seeds", "0-2,7", "--out", str(out)], capsys
    )
    assert code == 0, err
    assert files(out) == ["grid.png", *RECORDS]
    assert files(out / "samples") == ["000000.png", "000001.png", "000002.png", "000007.png"]
    image = Image.open(out / "samples" / "000007.png")
    assert (image.size, image.mode) == ((28, 28), "L")
    record = json.loads((out / "run.json").read_text())
    assert record["nfe"] == 11
    assert record["seeds"] == "0-2,7"
    assert record["noise"] == "philox-v1"
    assert record["plan_digest"] == rs.Plan.build(steps=4, restart="[3, 1, 0.1, 2.0]").digest
    assert "images/s" in err


def test_the_record_says_what_was_typed(tmp_path, capsys, monkeypatch):
    arguments = ["generate", *FAST, "--seeds", "0-1", "--class", "Ankle boot", "--out", str(tmp_path / "a")]
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/restart-sampling", *arguments])
    assert run(arguments, capsys)[0] == 0
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert shlex.split(record["command"]) == ["restart-sampling", *arguments]
    for name in ("model_sha256", "plan_digest", "noise", "versions"):
        assert record[name]


def test_repeat_gives_the_same_files(tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    run(
        [
            "generate",
            *FAST,
            "--restart",
            "[3, 1, 0.1, 2.0]",
            "--class",
            "Sneaker",
            "--seeds",
            "3-4",
            "--out",
            str(first),
        ],
        capsys,
    )
    code, _, err = run(["generate", "--repeat", str(first / "run.json"), "--out", str(second)], capsys)
    assert code == 0, err
    assert files(first / "samples") == ["000003.png", "000004.png"]
    for name in ("grid.png", "samples/000003.png", "samples/000004.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_repeat_takes_the_folder_of_a_run(tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    command = ["generate", "--steps", "2", "--seeds", "0-1", "--restart", "none", "--out", str(first)]
    assert run(command, capsys)[0] == 0
    assert run(["generate", "--repeat", str(first), "--out", str(second)], capsys)[0] == 0
    for seed in ("000000.png", "000001.png"):
        assert (first / "samples" / seed).read_bytes() == (second / "samples" / seed).read_bytes()


def test_a_class_is_named_in_the_last_place(tmp_path, capsys):
    command = ["generate", "--class", "sneakers", "--seeds", "0", "--out", str(tmp_path / "x")]
    code, _, err = run(command, capsys)
    assert code == 2 and err.rstrip().endswith("Ankle boot); did you mean 'Sneaker'?")


def test_repeat_refuses_other_weights(tmp_path, capsys):
    first = tmp_path / "a"
    run(["generate", "--steps", "2", "--seeds", "0", "--out", str(first)], capsys)
    record = json.loads((first / "run.json").read_text())
    (first / "run.json").write_text(json.dumps(record | {"model_sha256": "0" * 64}))
    code, _, err = run(["generate", "--repeat", str(first / "run.json"), "--out", str(tmp_path / "b")], capsys)
    assert code == 2
    assert "are not those of the recorded run" in err


def test_image_n_does_not_depend_on_the_batch(tmp_path, capsys):
    """Same seed, other batch: the same picture up to the network's float rounding (one grey level)."""
    for name, seeds, batch in (("a", "0-4", "5"), ("b", "4", "1")):
        code, _, err = run(
            ["generate", "--steps", "4", "--seeds", seeds, "--batch", batch, "--out", str(tmp_path / name)], capsys
        )
        assert code == 0, err
    a, b = (np.asarray(Image.open(tmp_path / n / "samples" / "000004.png"), dtype=int) for n in "ab")
    assert abs(a - b).max() <= 1
    assert a.std() > 1


def test_npz(tmp_path, capsys):
    code, _, err = run(["generate", *FAST, "--seeds", "0-2", "--format", "npz", "--out", str(tmp_path / "n")], capsys)
    assert code == 0, err
    data = np.load(tmp_path / "n" / "samples" / "shard-000000.npz")
    assert data["arr_0"].shape == (3, 28, 28, 1)
    assert data["arr_0"].dtype == np.uint8
    assert data["arr_1"].shape == (3,)
    assert data["seeds"].tolist() == [0, 1, 2]


def test_overwrite_removes_only_what_an_earlier_run_wrote(tmp_path, capsys):
    out = tmp_path / "a"
    run(["generate", *FAST, "--seeds", "0-1", "--out", str(out)], capsys)
    (out / "mine.txt").write_text("keep")
    code, _, err = run(["generate", *FAST, "--seeds", "5", "--out", str(out)], capsys)
    assert code == 2
    assert "holds seed 0, which is not among those asked for (5)" in err
    code, _, err = run(["generate", *FAST, "--seeds", "5", "--out", str(out), "--overwrite"], capsys)
    assert code == 0, err
    assert files(out) == ["grid.png", "log.jsonl", "manifest-0.jsonl", "mine.txt", "run.json", "samples"]
    assert files(out / "samples") == ["000005.png"]


def test_nonfinite_samples_are_not_written(tmp_path, capsys, monkeypatch):
    import torch

    from restart_sampling.integrations import load as module

    load = module.load_model

    def broken(source, *options):
        denoiser = load(source, *options)
        forward = denoiser.network.forward

        def bad(net_in, c_noise, class_labels=None):
            F = forward(net_in, c_noise, class_labels)
            return torch.where(torch.arange(len(F)).view(-1, 1, 1, 1) == 1, float("inf"), F)

        denoiser.network.forward = bad
        return denoiser

    monkeypatch.setattr(module, "load_model", broken)
    out = tmp_path / "bad"
    model = ["--model", "fashion-mnist"]  # its samplers run the network itself
    code, _, err = run(["generate", *model, *FAST, "--seeds", "0-2", "--out", str(out)], capsys)
    assert code == 1
    assert "1 samples became NaN or infinite, also in float32: seed 1" in err
    assert files(out) == ["grid.png", *RECORDS]
    assert files(out / "samples") == ["000000.png", "000002.png"]
    (line,) = (out / "manifest-0.jsonl").read_text().splitlines()
    assert json.loads(line)["nonfinite"] == [1]


def test_an_interrupted_run_keeps_what_it_has(tmp_path, capsys, monkeypatch):
    """Ctrl-C during the second batch: exit code 130, the first batch's files and a record that says so."""
    import restart_sampling.sampler.sampler as module

    iterate = module.Sampler.iterate

    def interrupted(self, seeds, *args, **kwargs):
        if 2 in list(seeds):
            raise KeyboardInterrupt
        return iterate(self, seeds, *args, **kwargs)

    monkeypatch.setattr(module.Sampler, "iterate", interrupted)
    out = tmp_path / "stopped"
    code, _, _ = run(["generate", "--steps", "3", "--batch", "2", "--seeds", "0-5", "--out", str(out)], capsys)
    assert code == 130
    assert files(out) == ["grid.png", *RECORDS]
    assert files(out / "samples") == ["000000.png", "000001.png"]
    (line,) = (out / "manifest-0.jsonl").read_text().splitlines()
    assert json.loads(line)["seeds"] == "0-1"
    monkeypatch.undo()
    code, _, _ = run(["generate", "--steps", "3", "--batch", "2", "--seeds", "0-5", "--out", str(out)], capsys)
    assert code == 0
    assert files(out / "samples") == [f"{seed:06d}.png" for seed in range(6)]


def test_notes_of_the_plan_are_shown(tmp_path, capsys):
    arguments = [
        "generate",
        "--steps",
        "4",
        "--seeds",
        "0",
        "--restart",
        "[2, 1, 0.3, 2.0]",
        "--out",
        str(tmp_path / "a"),
    ]
    code, _, err = run(arguments, capsys)
    assert code == 0
    assert "note: interval 0: t_min moved from 0.3 to grid point 2" in err


def test_plan_presets_models(capsys):
    code, out, _ = run(["plan", "--preset", "imagenet64-edm-623"], capsys)
    assert code == 0
    assert "623 NFE" in out
    code, out, _ = run(["plan", "--steps", "18", "--restart", "[3, 2, 0.14, 0.30]", "--json"], capsys)
    assert code == 0
    assert len(json.loads(out)["rows"]) == json.loads(out)["nfe"] == 43
    code, out, _ = run(["presets"], capsys)
    assert code == 0
    assert "imagenet64-edm-623" in out
    assert "1.36" in out
    code, out, _ = run(["presets", "cifar10-edm-43"], capsys)
    assert "43 NFE" in out
    code, out, _ = run(["models"], capsys)
    assert code == 0
    assert "fashion-mnist" in out
    code, out, _ = run(["models", "fashion-mnist"], capsys)
    assert "Sneaker" in out


def test_restart_from_a_file(tmp_path, capsys):
    path = tmp_path / "c.json"
    path.write_text('{"0": [3, 2, 0.14, 0.30]}')
    code, out, _ = run(["plan", "--restart", f"@{path}"], capsys)
    assert code == 0
    assert "43 NFE" in out
    code, _, err = run(["plan", "--restart", f"@{tmp_path / 'no.json'}"], capsys)
    assert code == 2
    assert "no.json" in err


STEPS_32 = ["--steps", "32", "--guidance-scale", "2.1"]
GUIDED = {
    "none": ([], 35, ["35 NFE · Heun"]),
    "everywhere": (["--guidance-scale", "2"], 70, ["guidance scale 2: every evaluation runs the network on 2 inputs"]),
    "interval": (["--guidance-scale", "2", "--guidance-interval", "0.2,5"], 45, ["while 0.2 ≤ sigma ≤ 5: 10 of 35"]),
    "no_upper_limit": (["--guidance-scale", "2", "--guidance-interval", "5, inf"], 50, ["while 5 ≤ sigma ≤ inf"]),
    "interval of whole steps": (
        [*STEPS_32, "--guidance-interval", "0.28,2.9", "--guidance-interval-rounding", "grid"],
        77,
        ["in steps from sigma in (0.28304, 2.9015]"],
    ),
    "rescale": (["--guidance-scale", "2", "--guidance-rescale", "0.7"], 70, ["guidance rescale 0.7"]),
    "cfg++": (["--guidance-scale", "0.6", "--guidance", "cfg++", "--solver", "euler"], 36, ["CFG++"]),
    "zero-star": (["--guidance-scale", "2", "--guidance", "zero-star", "--zero-init", "2"], 66, ["zero_init 2"]),
    "apg": (
        ["--guidance-scale", "2", "--guidance", "apg", "--apg-eta", "-0.5", "--apg-norm", "3"],
        70,
        ["the parallel part has weight -0.5", "clipped to norm 3"],
    ),
}


@pytest.mark.parametrize("name", GUIDED)
def test_options_of_guidance(name, capsys):
    options, calls, said = GUIDED[name]
    code, out, _ = run(["plan", *options], capsys)
    assert code == 0
    assert all(words in out for words in said)
    found = json.loads(run(["plan", *options, "--json"], capsys)[1])
    assert found["network_calls"] == calls


def test_options_of_noise(capsys):
    """With eta = 0 no step of ddpm has noise; with a window the steps inside it do."""

    def noisy(*options):
        rows = json.loads(run(["plan", "--solver", "ddpm", "--steps", "8", "--json", *options], capsys)[1])["rows"]
        return [row["index"] for row in rows if row["noise"]]

    assert noisy() == [*range(7)]
    assert noisy("--eta", "0") == []
    assert noisy("--eta-window", "2,5", "--eta", "0.5") == [2, 3, 4]


BAD = {
    "guidance": (["plan", "--guidance", "cfg+"], "guidance must be one of cfg, cfg++, zero-star, apg"),
    "guidance_interval": (["plan", "--guidance-interval", "5"], "two numbers with a comma between them, got '5'"),
    "guidance_rounding": (["plan", "--guidance-interval-rounding", "up"], "must be one of none, grid, got 'up'"),
    "guidance_order": (["plan", "--guidance-interval", "5,1"], "0 ≤ low < high, got (5.0, 1.0)"),
    "eta_window": (["plan", "--eta-window", "0,1.5"], "two integers with a comma between them, got '0,1.5'"),
    "eta_window_end": (["plan", "--eta-window", "0,19"], "its end must be an integer ≤ 18"),
    "steps": (["plan", "--steps", "1"], "steps must be an integer ≥ 2, got 1"),
    "solver": (["plan", "--solver", "huen"], "did you mean 'heun'"),
    "preset": (["plan", "--preset", "imagenet64-edm-632"], "imagenet64-edm-623"),
    "not_json": (["plan", "--restart", '{"0": [3, 2'], "line 1"),
    "three_numbers": (["plan", "--restart", "[3, 2, 0.3]"], "t_max"),
    "n_1": (["plan", "--restart", "[1, 2, 0.14, 0.3]"], "N"),
    "k_negative": (["plan", "--restart", "[3, -2, 0.14, 0.3]"], "K"),
    "t_order": (["plan", "--restart", "[3, 2, 0.3, 0.14]"], "t_min"),
    "t_nan": (["plan", "--restart", "[3, 2, NaN, 0.3]"], "NaN"),
    "t_max_high": (["plan", "--restart", "[3, 2, 0.14, 90]"], "above sigma_max 80"),
    "never": (["plan", "--restart", "[3, 2, 79, 80]"], "never"),
    "rho": (["plan", "--rho", "0"], "rho must be"),
    "sigma": (["plan", "--sigma-min", "90"], "sigma_min must be below sigma_max"),
    "churn": (["plan", "--s-churn", "nan"], "s_churn"),
    "seeds_empty": (["generate", "--seeds", ""], "seed"),
    "seeds_order": (["generate", "--seeds", "5-2"], "5-2"),
    "seeds_negative": (["generate", "--seeds", "-5"], "-5"),
    "seeds_twice": (["generate", "--seeds", "0-3,2"], "2"),
    "seeds_word": (["generate", "--seeds", "a"], "a"),
    "seeds_2_64": (["generate", "--seeds", str(2**64)], str(2**64)),
    "seeds_too_many": (["generate", "--seeds", "0-99999999999999"], "GB free; ask for fewer seeds"),
    "batch": (["generate", "--batch", "0"], "batch_size must be an integer ≥ 1"),
    "batch_word": (["generate", "--batch", "big"], "--batch must be a number ≥ 1 or auto"),
    "class": (["generate", "--class", "10"], "classes 0..9"),
    "class_name": (["generate", "--class", "Hat"], "Sneaker"),
    "model": (["generate", "--model", "fashion-minst"], "did you mean 'fashion-mnist'"),
    "device": (["generate", "--device", "cuda:7"], "CUDA devices are visible"),
    "dtype": (["generate", "--dtype", "int8"], "fp32, tf32, bf16, fp16"),
    "format": (["generate", "--format", "bmp"], "npz, wds"),
    "backend": (["generate", "--backend", "rocm"], "rocm"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(name, tmp_path, capsys):
    arguments, message = BAD[name]
    out = tmp_path / "out"
    if arguments[0] == "generate":
        arguments = [*arguments, "--out", str(out)]
    code, _, err = run(arguments, capsys)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out.exists()


def test_out_is_a_file(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("")
    code, _, err = run(["generate", "--out", str(path)], capsys)
    assert code == 2
    assert "is a file" in err


def test_status_and_verify(tmp_path, capsys):
    """Of a run that was cut short: how far it is, that it is not complete, and that --repair ends it."""
    out = tmp_path / "a"
    generate = ["generate", "--steps", "2", "--shard-size", "4", "--seeds", "0-9", "--out", str(out)]
    assert run(generate, capsys)[0] == 0
    code, text, _ = run(["status", str(out)], capsys)
    assert code == 0
    assert "10 of 10 images (100.0%) in 3 shards" in text
    assert text.splitlines()[-1] == "finished"
    code, text, _ = run(["verify", str(out)], capsys)
    assert code == 0
    assert "3 of 3 finished" in text

    (out / "samples" / "000005.png").write_bytes(b"no picture")
    manifest = out / "manifest-0.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if json.loads(line)["shard"] != 2))
    code, text, err = run(["verify", str(out)], capsys)
    assert code == 3
    assert "broken     shard 1: its files should have" in text
    assert "missing    " in text
    assert f"mend it with: restart-sampling verify {out} --repair" in err
    code, text, _ = run(["status", str(out), "--json"], capsys)
    assert json.loads(text)["left"] > 0
    assert run(["verify", str(out), "--repair"], capsys)[0] == 0
    assert run(["verify", str(out)], capsys)[0] == 0
    assert Image.open(out / "samples" / "000005.png").size == (28, 28)


@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_folder_without_a_run(command, tmp_path, capsys):
    nothing = tmp_path / "nothing"
    for folder, message in (
        (tmp_path, "does not hold a run (there is no run.json)"),
        (nothing, f"there is no folder {nothing}"),
    ):
        code, _, err = run([command, str(folder)], capsys)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("how", ["cut short", "a bit of its header", "other weights", "another model"])
def test_a_checkpoint_that_changed_under_a_run_is_refused(tmp_path, capsys, how):
    """One line that names the reason, exit code 2, and the run in the folder stays as it was; the old file goes on with
    it.
    """
    from restart_sampling.models.registry import find

    good = find("fashion-mnist").read_bytes()
    model, out = tmp_path / "model.safetensors", tmp_path / "a"
    model.write_bytes(good)
    command = ["generate", "--model", str(model), "--steps", "2", "--batch", "8", "--out", str(out), "--seeds"]
    assert run([*command, "0-3"], capsys)[0] == 0
    before = {p.name: p.read_bytes() for p in out.rglob("*") if p.suffix in (".png", ".jsonl", ".json")}
    swapped, said = {
        "cut short": (good[:-1000], "model.safetensors"),
        "a bit of its header": (bytes([good[0] ^ 64]) + good[1:], "model.safetensors"),
        "other weights": (good[:-1] + bytes([good[-1] ^ 1]), "model_sha256 is"),
        "another model": (
            find("fashion-mnist").with_name("fashion-mnist-classifier.safetensors").read_bytes(),
            "model",
        ),
    }[how]
    model.write_bytes(swapped)
    code, _, err = run([*command, "0-7"], capsys)
    assert code == 2
    assert said in err and len(err.strip().splitlines()) == 1
    after = {p.name: p.read_bytes() for p in out.rglob("*") if p.suffix in (".png", ".jsonl", ".json")}
    assert after == before
    model.write_bytes(good)
    assert run([*command, "0-7"], capsys)[0] == 0
    assert len(list((out / "samples").glob("0*.png"))) == 8
