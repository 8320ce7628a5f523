"""`--model FOLDER`: diffusers pipelines in the commands, with prompts; recorded, repeated, refused if they differ."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from support.commands import run

import restart_sampling as rs
from restart_sampling.cli import generate as command

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from support import diffusers_pipelines
from support.diffusers_families import NEGATIVE, PROMPTS, SIDE, case

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of an unconditional, a class-conditional and two text pipelines, one of them a flow model."""
    root = tmp_path_factory.mktemp("pipelines")
    for name, pipe in (
        ("ddpm", diffusers_pipelines.ddpm()),
        ("dit", diffusers_pipelines.dit()),
        ("pixart", case("pixart_sigma").pipe),
        ("auraflow", case("auraflow").pipe),
    ):
        pipe.save_pretrained(root / name)
    return root


TEXT = ["--prompt", PROMPTS[0], "--negative-prompt", NEGATIVE, "--height", 2 * SIDE, "--width", 2 * SIDE]


@pytest.fixture
def generate(folders, tmp_path, capsys):
    """Run `generate` with a folder into tmp_path/NAME: (exit code, stderr)."""

    def call(model, name, *arguments):
        common = ["--seeds", "0-2", "--format", "npz", "--batch", 8, "--out", tmp_path / name]
        code, _, err = run(capsys, "generate", "--model", folders / model, *common, *arguments)
        return code, err

    return call


def samples(folder):
    return np.load(next((folder / "samples").glob("*.npz")))["arr_0"]


def recorded(folder):
    return json.loads((folder / "run.json").read_text())


def test_pixels_without_any_option(generate, folders, tmp_path):
    """The plan is Heun on the model's own levels."""
    code, err = generate("ddpm", "a")
    assert code == 0, err
    denoiser = rs.load(folders / "ddpm")
    plan = rs.Plan.build(**denoiser.info["levels"](18))
    said = recorded(tmp_path / "a")
    assert said["plan_digest"] == plan.digest and plan.config.guidance_scale == 1.0
    assert (said["model_sha256"], said["pipeline"]) == (denoiser.info["sha256"], {"dtype": "fp32"})
    images = rs.sample(denoiser, plan, range(3)).permute(0, 2, 3, 1)
    want = ((images + 1) * 127.5).clamp(0, 255)
    assert np.abs(samples(tmp_path / "a") - want.numpy()).max() <= 1


def test_classes_are_decoded_by_the_folders_own_vae(generate, folders, tmp_path):
    code, err = generate("dit", "a", "--steps", 2, "--class", 7)
    assert code == 0, err
    said = recorded(tmp_path / "a")
    assert said["vae_folder"] == str((folders / "dit" / "vae").resolve()) and said["plan"]["guidance_scale"] == 4.0
    denoiser = rs.load(folders / "dit")
    plan = rs.Plan.build(**denoiser.info["levels"](2))
    images = rs.sample(denoiser, plan, range(3), 7, decode=folders / "dit").permute(0, 2, 3, 1) * 255
    assert samples(tmp_path / "a").shape == (3, 16, 16, 3)
    assert np.abs(samples(tmp_path / "a") - images.numpy()).max() <= 1
    assert generate("dit", "latents", "--steps", 2, "--pixels", "float32")[0] == 0
    assert samples(tmp_path / "latents").shape == (3, 4, 8, 8) and "vae_sha256" not in recorded(tmp_path / "latents")
    other = tmp_path / "vae"
    diffusers_pipelines.vae(scaling_factor=0.3).save_pretrained(other)
    assert generate("dit", "b", "--steps", 2, "--class", 7, "--decode", other)[0] == 0
    assert recorded(tmp_path / "b")["vae_folder"] == str(other)


@pytest.mark.parametrize("name", ["pixart", "auraflow"])
def test_a_prompt(name, generate, folders, tmp_path):
    code, err = generate(name, "a", *TEXT, "--steps", 2)
    assert code == 0, err
    said = recorded(tmp_path / "a")
    told = {"prompt": PROMPTS[0], "negative_prompt": NEGATIVE, "height": 2 * SIDE, "width": 2 * SIDE}
    assert said["pipeline"] == {"dtype": "fp32", **told}
    denoiser = rs.load(folders / name, **told)
    plan = rs.Plan.build(**denoiser.info["levels"](2))
    images = rs.sample(denoiser, plan, range(3), decode=folders / name).permute(0, 2, 3, 1) * 255
    assert np.abs(samples(tmp_path / "a") - images.numpy()).max() <= 1


def test_options_go_on_top_of_the_models_levels(generate, tmp_path):
    code, err = generate("auraflow", "a", *TEXT, "--steps", 3, "--solver", "euler", "--guidance-scale", 1)
    assert code == 0, err
    plan = recorded(tmp_path / "a")["plan"]
    assert (plan["schedule"], plan["solver"], plan["steps"]) == ("flow", "euler", 3)
    assert dict(plan["schedule_options"]) == {"shift": 1.73, "segment": "own"}


def test_a_text_pipeline_needs_a_prompt_and_others_take_none(generate, folders, tmp_path, capsys):
    code, err = generate("pixart", "a")
    assert code == 2 and "give either prompt or prompt_embeds (on the command line --prompt TEXT)" in err
    code, err = generate("ddpm", "a", "--prompt", "a fox")
    assert code == 2 and "DDPMPipeline takes no text; leave out prompt" in err
    code, _, err = run(capsys, "generate", "--prompt", "a fox", "--out", tmp_path / "a")
    assert code == 2 and "prompt is only for diffusers pipelines; leave it out" in err
    code, err = generate("ddpm", "a", "--guide", "fashion-mnist", "--guidance-scale", 2)
    assert code == 2 and "a pipeline is guided by its negative prompt" in err
    assert not (tmp_path / "a").exists()


def test_another_prompt_is_another_job(generate, tmp_path):
    assert generate("pixart", "a", *TEXT, "--steps", 2)[0] == 0
    for change in (["--prompt", "a hare"], ["--dtype", "bf16"], ["--width", 4 * SIDE]):
        code, err = generate("pixart", "a", *TEXT, "--steps", 2, *change)
        assert code == 2 and "the folder holds another job: " in err, err


@pytest.mark.parametrize("name", ["pixart", "auraflow"])
def test_seeds_may_be_added(name, generate, tmp_path):
    """Also where the plan has options of its grid, as those of flows have."""
    assert generate(name, "a", *TEXT, "--steps", 2)[0] == 0
    code, err = generate(name, "a", *TEXT, "--steps", 2, "--seeds", "0-4")
    assert code == 0 and "5 of 5 are there" in err, err
    assert recorded(tmp_path / "a")["seeds"] == "0-4"


def test_repeat(generate, folders, tmp_path, capsys):
    assert generate("pixart", "a", *TEXT, "--steps", 2, "--dtype", "bf16")[0] == 0
    again = ["generate", "--repeat", tmp_path / "a", "--out"]
    assert run(capsys, *again, tmp_path / "b")[0] == 0
    assert np.array_equal(samples(tmp_path / "a"), samples(tmp_path / "b"))
    code, _, err = run(capsys, *again, tmp_path / "c", "--prompt", "a hare")
    assert code == 2 and "--repeat takes everything from" in err and "leave out --prompt" in err
    moved = tmp_path / "moved"
    shutil.copytree(folders / "pixart", moved)
    assert run(capsys, *again, tmp_path / "d", "--model", moved)[0] == 0
    assert np.array_equal(samples(tmp_path / "a"), samples(tmp_path / "d"))
    vocabulary = next(moved.glob("tokenizer/tokenizer.json"))
    vocabulary.write_text(vocabulary.read_text().replace('"fox"', '"cat"'))
    code, _, err = run(capsys, *again, tmp_path / "e", "--model", moved)
    assert code == 2 and "are not those of the recorded run" in err
    record = recorded(tmp_path / "a")
    changed = {"pipeline": {**record["pipeline"], "prompt": "a hare"}}
    (tmp_path / "a" / "run.json").write_text(json.dumps(record | changed))
    code, _, err = run(capsys, *again, tmp_path / "f")
    assert code == 2 and "'job_digest' is that of other values" in err
    (tmp_path / "a" / "run.json").write_text(json.dumps(record | {"model_path": "/nowhere", "model": "/nowhere"}))
    code, _, err = run(capsys, *again, tmp_path / "g")
    assert code == 2 and "is not at /nowhere; say with --model where it is now" in err


def test_repeat_of_a_single_file(tmp_path, capsys, monkeypatch):
    """Its folder may have moved. The pipeline has no text encoder, so its embeddings are given here by a patch."""
    from support.single_files import save_unet

    pipe = diffusers_pipelines.stable_diffusion()
    pipe.save_pretrained(tmp_path / "config")
    save_unet(pipe.unet, tmp_path / "sd.safetensors")
    texts = diffusers_pipelines.embeddings(1)

    def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance, negative_prompt=None):
        return texts["prompt_embeds"], texts["negative_prompt_embeds"]

    monkeypatch.setattr(type(pipe), "encode_prompt", encode_prompt)
    common = ["--seeds", "0-2", "--format", "npz", "--batch", 8, "--steps", 2, "--prompt", "a fox"]
    model = ["--model", tmp_path / "sd.safetensors", "--config", tmp_path / "config"]
    code, _, err = run(capsys, "generate", *model, *common, "--out", tmp_path / "a")
    assert code == 0, err
    assert recorded(tmp_path / "a")["config_path"] == str(tmp_path / "config")
    (tmp_path / "config").rename(tmp_path / "there")
    again = ["generate", "--repeat", tmp_path / "a", "--decode", tmp_path / "there", "--out"]
    code, _, err = run(capsys, *again, tmp_path / "b", "--config", tmp_path / "there")
    assert code == 0, err
    assert np.array_equal(samples(tmp_path / "a"), samples(tmp_path / "b"))
    code, _, err = run(capsys, *again, tmp_path / "c")
    assert code == 2 and "config must be the folder of a diffusers pipeline" in err


def test_tensors_are_recorded_by_their_sha256(folders, tmp_path, capsys):
    """Such a job goes on through Python; the command line cannot have them."""
    from restart_sampling.jobs.generate import run_job

    embeds = {"prompt_embeds": torch.ones(1, 5, 32), "negative_prompt_embeds": torch.zeros(1, 5, 32)}
    denoiser = rs.load(folders / "auraflow", height=16, width=16, **embeds)
    plan = rs.Plan.build(**denoiser.info["levels"](2))
    run_job(denoiser, plan, "0-2", tmp_path / "a", batch=8, sheets=0, format="npz")
    said = recorded(tmp_path / "a")["pipeline"]
    assert set(said) == {"dtype", "height", "width", "prompt_embeds", "negative_prompt_embeds"}
    assert set(said["prompt_embeds"]) == {"sha256"} and samples(tmp_path / "a").shape == (3, 16, 16, 3)
    other = rs.load(folders / "auraflow", height=16, width=16, **{**embeds, "prompt_embeds": torch.zeros(1, 5, 32)})
    with pytest.raises(rs.RestartError, match="the folder holds another job: pipeline is"):
        run_job(other, plan, "0-2", tmp_path / "a", batch=8, sheets=0, format="npz")
    code, _, err = run(capsys, "generate", "--repeat", tmp_path / "a", "--out", tmp_path / "b")
    assert code == 2 and "was loaded with tensors (prompt_embeds, negative_prompt_embeds), which no file holds" in err


def test_a_job_of_python_is_repeated_with_all_that_it_was_loaded_with(folders, tmp_path, capsys):
    """Also with what the commands have no options for: several prompts, their length, a network without guidance."""
    from restart_sampling.jobs.generate import run_job

    told = {"prompt": PROMPTS, "max_sequence_length": 24, "guided": False, "height": 16, "width": 16}
    denoiser = rs.load(folders / "pixart", dtype="bf16", **told)  # and float32 in the sampler
    plan = rs.Plan.build(**denoiser.info["levels"](2))
    run_job(denoiser, plan, "0-2", tmp_path / "a", label=1, batch=8, sheets=0, format="npz")
    assert recorded(tmp_path / "a")["pipeline"] == {"dtype": "bf16", **told}
    code, _, err = run(capsys, "generate", "--repeat", tmp_path / "a", "--out", tmp_path / "b")
    assert code == 0, err
    assert np.array_equal(samples(tmp_path / "a"), samples(tmp_path / "b"))


def test_a_worker_elsewhere_loads_the_same(folders, monkeypatch, tmp_path):
    monkeypatch.chdir(folders)
    pipeline = {"prompt": PROMPTS[0], "height": 16, "width": 16}
    told = {"model": "pixart", "guide": None, "guide_null": None, "pipeline": pipeline, "load_dtype": "bf16"}
    load = command._loader(told)
    monkeypatch.chdir(tmp_path)
    denoiser = load()
    assert denoiser.info["told"] == {"dtype": "bf16", "prompt": PROMPTS[0], "height": 16, "width": 16}


def test_bench_profile_and_tune(folders, tmp_path, capsys):
    model = ["--model", folders / "ddpm"]
    code, _, err = run(
        capsys,
        *["bench", *model, "--samplers", "heun", "--nfe", "5", "--rounds", "1", "--batch", "1"],
        *["--out", tmp_path / "b"],
    )
    assert code == 0, err
    (row,) = [json.loads(line) for line in (tmp_path / "b" / "speed.jsonl").read_text().splitlines()]
    assert (row["model"], row["nfe"]) == (str(folders / "ddpm"), 5)
    code, _, err = run(
        capsys,
        *["profile", "--model", folders / "auraflow", *TEXT, "--steps", 2, "--batch", 1, "--tool", "torch"],
        *["--out", tmp_path / "p"],
    )
    assert code == 0, err
    pytest.importorskip("optuna")
    code, _, err = run(capsys, "tune", *model, "--trials", 1, "--n", 4, "--out", tmp_path / "t")
    assert code == 2 and "needs --features" in err  # its network was loaded before
    code, _, err = run(capsys, "bench", "--against", "HEAD", *model)
    assert code == 2 and "--against times networks of model files, not pipelines" in err


def test_a_file_of_prompts_draws_what_each_prompt_draws(folders, tmp_path, capsys):
    """Prompt i has the seeds 2i and 2i + 1; negative prompt and size are those of the pipeline; a repeat is equal."""
    (tmp_path / "p.csv").write_text("id,prompt\n" + "".join(f'{k},"{text}"\n' for k, text in enumerate(PROMPTS[:2])))
    size = ["--height", 2 * SIDE, "--width", 2 * SIDE, "--negative", NEGATIVE, "--format", "npz", "--batch", 8]
    model = ["--model", folders / "pixart"]
    several = ["--prompts", tmp_path / "p.csv", "--per-prompt", 2, "--out", tmp_path / "all"]
    code, _, err = run(capsys, "generate", *model, *several, *size)
    assert code == 0, err
    for k, text in enumerate(PROMPTS[:2]):
        one = ["--prompt", text, "--seeds", f"{2 * k}-{2 * k + 1}", "--out", tmp_path / str(k)]
        assert run(capsys, "generate", *model, *one, *size)[0] == 0
        apart = np.abs(samples(tmp_path / "all")[2 * k : 2 * k + 2].astype(int) - samples(tmp_path / str(k)))
        assert apart.max() <= 1
    assert (samples(tmp_path / "0") != samples(tmp_path / "1")).mean() > 0.5
    said = recorded(tmp_path / "all")
    assert (said["inputs"]["column"], said["inputs"]["negative"]) == ("prompt", NEGATIVE)
    assert run(capsys, "generate", "--repeat", tmp_path / "all", "--out", tmp_path / "again")[0] == 0
    assert (samples(tmp_path / "again") == samples(tmp_path / "all")).all()


def test_a_study_of_prompts_needs_no_prompt_besides(folders, tmp_path, capsys):
    """`bench --prompts`: each cell draws the file with the folder's encoder and VAE, and its row is scored."""
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "mine.py").write_text("def red(images, prompts):\n    return images[:, 0].float().mean((1, 2))\n")
    study = ["bench", "--model", folders / "pixart", "--height", 2 * SIDE, "--width", 2 * SIDE, "--batch", 4]
    study += ["--prompts", tmp_path / "p.txt", "--guidance", "1,2", "--scorer", f"{tmp_path / 'mine.py'}:red"]
    study += ["--samplers", "heun", "--nfe", 5, "--out", tmp_path / "study"]
    code, out, err = run(capsys, *study)
    assert code == 0, err
    assert "red" in out
    rows = [json.loads(line) for line in (tmp_path / "study" / "text_to_image.jsonl").read_text().splitlines()]
    assert [(row["guidance_scale"], row["n"], row["nfe"]) for row in rows] == [
        (1.0, len(PROMPTS), 5),
        (2.0, len(PROMPTS), 5),
    ]
    assert rows[0]["red"] != rows[1]["red"]
    assert len(list((tmp_path / "study" / "images" / "heun@5-w2" / "samples").iterdir())) == len(PROMPTS)
    (tmp_path / "mean.py").write_text(
        "import torch\n\n\nclass Mean(torch.nn.Module):\n    def forward(self, images):\n"
        f"        assert images.shape[1:] == (3, {2 * SIDE}, {2 * SIDE})\n"
        "        return images.float().mean((2, 3)) / 255\n"
    )
    np.savez(tmp_path / "statistics.npz", mu=np.full(3, 0.5), sigma=np.eye(3) / 100)
    distance = ["--features", f"{tmp_path / 'mean.py'}:Mean", "--reference", tmp_path / "statistics.npz"]
    code, _, err = run(capsys, *study, *distance)
    assert code == 0, err
    last = (tmp_path / "study" / "text_to_image.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["fd"] > 0
    code, _, err = run(capsys, *study, "--quick")
    assert code == 2
    assert "--quick does not go with --prompts" in err
    code, _, err = run(capsys, "bench", "--scorer", "clip=x")
    assert code == 2
    assert "--scorer and --prompt-column are of --prompts" in " ".join(err.split())
