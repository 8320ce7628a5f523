"""`rs.load`: a name, a file, a folder, a pipeline; and one sentence for everything else."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import torch

import restart_sampling as rs
from restart_sampling.common.errors import BackendError, CheckpointError
from restart_sampling.models import build_network, registry, save_safetensors

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = rs.Plan.build(steps=4, restart="[3, 1, 0.3, 1.0]")
SMALL = dict(
    class_name="EDMPrecond",
    model_type="SongUNet",
    img_resolution=8,
    img_channels=1,
    model_channels=8,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[],
)


@pytest.fixture
def pipelines():
    pytest.importorskip("diffusers")
    from support import diffusers_pipelines

    return diffusers_pipelines


@pytest.fixture
def folder(pipelines, tmp_path):
    pipelines.ddpm().save_pretrained(tmp_path / "ddpm")
    return tmp_path / "ddpm"


def test_a_name_a_file_and_a_function_of_models(tmp_path):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, build_network(SMALL, seed=0), {})
    assert rs.load("fashion-mnist").name == "fashion-mnist"
    for source in (path, str(path)):
        assert rs.load(source).name == registry.load_model(source).name == "m.safetensors"
    with pytest.raises(CheckpointError, match="prompt is only for diffusers pipelines; leave it out"):
        rs.load(path, prompt="a fox")


def test_the_old_place_of_load_warns():
    with pytest.warns(DeprecationWarning, match=r"models.registry.load is now restart_sampling.integrations.load.load"):
        load = registry.load
    assert load is rs.load
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        registry.laod  # noqa: B018


def test_a_folder_is_the_pipeline_in_it(folder, pipelines):
    den = rs.load(folder)
    assert (den.info["pipeline"], den.info["network"]) == ("DDPMPipeline", "UNet2DModel")
    assert (den.info["path"], den.info["vae"], den.info["told"]) == (str(folder), None, {"dtype": "fp32"})
    assert torch.equal(rs.sample(den, PLAN, range(2)), rs.sample(rs.load(pipelines.ddpm()), PLAN, range(2)))
    assert str(rs.load(str(folder), "cpu").device) == "cpu"
    with pytest.raises(BackendError, match="device 'nowhere' is not known; use cpu, cuda or cuda:N"):
        rs.load(folder, "nowhere")
    with pytest.raises(CheckpointError, match="sha256 pins a file"):
        rs.load(folder, sha256="0" * 64)


def test_a_folder_takes_the_arguments_of_its_pipeline(pipelines, tmp_path):
    pipe = pipelines.dit()
    pipe.save_pretrained(tmp_path / "dit")
    mine, theirs = (rs.load(source, height=16) for source in (tmp_path / "dit", pipe))
    assert mine.shape == theirs.shape == (4, 8, 8) and mine.label_dim == 1000
    assert torch.equal(rs.sample(mine, PLAN, range(2)), rs.sample(theirs, PLAN, range(2)))
    with pytest.raises(rs.ConfigError, match="height must be a multiple of 2, got 9"):
        rs.load(tmp_path / "dit", height=9)
    with pytest.raises(rs.ConfigError, match="unknown argument 'hight'"):
        rs.load(tmp_path / "dit", hight=8)


def rewritten(folder, **changes):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FOREIGN = {
    "another library": ({"unet": ["antigravity", "Net"]}, r"unet is of 'antigravity', which would be code of others"),
    "no library": ({"unet": [3, "Net"]}, "unet is of 3"),
    "another class": ({"_class_name": "os"}, "_class_name must be a pipeline of diffusers .*, got 'os'"),
    "a class with its module": ({"_class_name": ["mine", "Net"]}, "_class_name must be a pipeline"),
    "a class that is none": ({"_class_name": "ConfigMixin"}, "_class_name must be a pipeline"),
    "a class that is unknown": ({"unet": ["diffusers", "NoSuchNet"]}, "diffusers cannot load this pipeline"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_parts_of_others_are_refused(folder, name):
    changes, message = FOREIGN[name]
    rewritten(folder, **changes)
    with pytest.raises(CheckpointError, match=message) as info:
        rs.load(folder)
    assert str(info.value).startswith(str(folder)) and "\n" not in str(info.value)


@pytest.mark.parametrize("library", ["diffusers", "mine"])
def test_no_python_file_of_a_folder_is_run(folder, library):
    flag = folder / "was-run"
    (folder / "unet" / f"{library}.py").write_text(f"open({str(flag)!r}, 'w')\nclass Net: pass\n")
    rewritten(folder, unet=[library, "Net"])
    with pytest.raises(CheckpointError, match="code of others"):
        rs.load(folder)
    assert not flag.exists()


def test_folders_that_are_damaged_or_no_pipelines(folder, tmp_path):
    weights = next(folder.glob("unet/*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="diffusers cannot load this pipeline"):
        rs.load(folder)
    weights.unlink()
    torch.save({}, weights.with_suffix(".bin"))  # a pickle is not read in its place
    with pytest.raises(CheckpointError, match="diffusers cannot load this pipeline"):
        rs.load(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"model_index.json: cannot be read"):
        rs.load(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match="is a folder; give the model file in it"):
        rs.load(folder)


def test_weights_in_half_precision(pipelines, tmp_path):
    """The parts are loaded in it, and a sampler of the same dtype shares them."""
    pipelines.stable_diffusion().save_pretrained(tmp_path)
    texts = pipelines.embeddings(1)
    whole = rs.load(tmp_path, **texts)
    half = rs.load(tmp_path, dtype="bf16", **texts)
    assert {p.dtype for p in half.parameters} == {torch.bfloat16} and half.info["told"]["dtype"] == "bf16"
    assert half.conditions["prompt_embeds"].dtype == torch.bfloat16
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(half.parameters, whole.parameters, strict=True))
    plan = rs.Plan.build(steps=3, guidance_scale=2.0)
    sampler = rs.Sampler(half, plan, 2, dtype="bf16")
    own = {p.data_ptr() for p in half.parameters}
    assert all(p.data_ptr() in own for p in sampler.network.module.parameters())
    want = rs.sample(whole, plan, range(2))
    assert 0 < (sampler.run(range(2)) - want).abs().max() <= 0.1 * want.abs().max()
    with pytest.raises(CheckpointError, match="dtype must be one of fp32, bf16, fp16, got 'tf32'"):
        rs.load(tmp_path, dtype="tf32", **texts)


def test_a_variant_is_read_where_there_is_one(pipelines, folder, tmp_path):
    other = pipelines.ddpm()
    with torch.no_grad():
        for p in other.unet.parameters():
            p.mul_(1.01)
    other.save_pretrained(folder, variant="fp16")
    plain, variant = rs.load(folder), rs.load(folder, variant="fp16")
    assert torch.equal(variant.parameters[0], plain.parameters[0] * 1.01)
    assert variant.info["told"] == {"dtype": "fp32", "variant": "fp16"}
    assert variant.info["sha256"] != plain.info["sha256"]
    with pytest.raises(CheckpointError, match=r"no weights are of the variant 'bf16'; there are fp16"):
        rs.load(folder, variant="bf16")
    pipelines.ddpm().save_pretrained(tmp_path / "plain")
    with pytest.raises(CheckpointError, match=r"no weights are of the variant 'fp16'; leave it out"):
        rs.load(tmp_path / "plain", variant="fp16")


def test_the_sha256_is_of_what_decides_the_samples(folder, pipelines, tmp_path):
    from restart_sampling.integrations.diffusers.folder import digest
    from restart_sampling.integrations.diffusers.weight_files import chosen

    first = rs.load(folder).info["sha256"]
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("a card")
    (tmp_path / "copy" / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not read")
    assert rs.load(tmp_path / "copy").info["sha256"] == digest(folder) == first
    config = tmp_path / "copy" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.02", "0.03"))
    assert rs.load(tmp_path / "copy").info["sha256"] != first
    part = tmp_path / "part"
    part.mkdir()
    shards = [f"model{v}-0000{i}-of-00002.safetensors" for v in ("", ".fp16") for i in (1, 2)]
    for name in (*shards, "model.fp16.safetensors", "other.txt"):
        (part / name).touch()
    assert [p.name for p in chosen(part, None)] == shards[:2]
    assert [p.name for p in chosen(part, "fp16")] == [*shards[2:], "model.fp16.safetensors"]
    assert [p.name for p in chosen(part, "bf16")] == shards[:2]


def test_a_folder_with_one_variant_alone(pipelines, tmp_path):
    """Its VAE decodes jobs, and the error of a load without the variant says which one there is."""
    pipe = pipelines.dit()
    pipe.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(CheckpointError, match=r"its weights are of the variant fp16; give variant='fp16'"):
        rs.load(tmp_path)
    den = rs.load(tmp_path, variant="fp16")
    plan = rs.Plan.build(**den.info["levels"](2))
    images = rs.sample(den, plan, range(2), 0, decode=den.info["vae"])
    assert torch.equal(images, rs.sample(rs.load(pipe), plan, range(2), 0, decode=pipe.vae))


def test_a_prompt_needs_a_text_encoder(pipelines):
    with pytest.raises(rs.ConfigError, match="StableDiffusionPipeline has no text encoder; give embeddings instead"):
        rs.load(pipelines.stable_diffusion(), prompt="a fox")


def test_arguments_that_are_for_pipelines_on_the_disk(pipelines, folder, tmp_path):
    path = tmp_path / "m.safetensors"
    save_safetensors(path, build_network(SMALL, seed=0), {})
    for source in (path, pipelines.ddpm()):
        for option in (dict(dtype="bf16"), dict(variant="fp16")):
            with pytest.raises(CheckpointError, match="is only for diffusers pipelines on the disk; leave it out"):
                rs.load(source, **option)
    with pytest.raises(CheckpointError, match="config is for a pipeline's weights in a single"):
        rs.load(folder, config=folder)


# --- all weights in one file


@pytest.fixture
def single(pipelines, tmp_path):
    """(a file with the U-Net of a Stable Diffusion pipeline, a folder of the pipeline without it, the pipeline)."""
    from support.single_files import save_unet

    pipe = pipelines.stable_diffusion()
    pipe.save_pretrained(tmp_path / "config")
    next((tmp_path / "config" / "unet").glob("*.safetensors")).unlink()
    save_unet(pipe.unet, tmp_path / "sd.safetensors")
    return tmp_path / "sd.safetensors", tmp_path / "config", pipe


def test_a_single_file(single, pipelines, monkeypatch):
    """It is the pipeline, and no connection is tried."""

    def refused(*arguments, **options):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    path, config, pipe = single
    texts = pipelines.embeddings(1)
    den = rs.load(path, config=config, **texts)
    plan = rs.Plan.build(steps=3, guidance_scale=2.0)
    assert torch.equal(rs.sample(den, plan, range(2)), rs.sample(rs.load(pipe, **texts), plan, range(2)))
    assert (den.info["path"], den.info["config"], den.info["vae"]) == (str(path), str(config), str(config))
    half = rs.load(str(path), config=str(config), dtype="fp16", **texts)
    assert {p.dtype for p in half.parameters} == {torch.float16} and half.info["sha256"] == den.info["sha256"]


def test_a_single_file_needs_a_folder_on_this_machine(single, pipelines, tmp_path):
    path, config, _ = single
    with pytest.raises(CheckpointError, match=r"load it with config=FOLDER .*; nothing is downloaded"):
        rs.load(path)
    with pytest.raises(
        CheckpointError, match="config must be the folder of a diffusers pipeline, with its model_index"
    ):
        rs.load(path, config="stable-diffusion-v1-5/stable-diffusion-v1-5", **pipelines.embeddings(1))
    with pytest.raises(CheckpointError, match=r"a single file of weights must be .safetensors; others are pickles"):
        rs.load(tmp_path / "sd.ckpt", config=config)
    with pytest.raises(CheckpointError, match=r"nowhere.safetensors: no such file"):
        rs.load(tmp_path / "nowhere.safetensors", config=config)
    with pytest.raises(CheckpointError, match="variant is only for diffusers pipelines on the disk"):
        rs.load(path, config=config, variant="fp16")
    with pytest.raises(CheckpointError, match="guide is for networks of model files"):
        rs.load(path, config=config, guide="fashion-mnist")
    pipelines.dit().save_pretrained(tmp_path / "dit")
    with pytest.raises(CheckpointError, match=r"diffusers .* reads no DiTPipeline from a single file"):
        rs.load(path, config=tmp_path / "dit")
    torch.save({}, config / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"unet: its weights are pickles \(.bin\), which are not read"):
        rs.load(path, config=config, **pipelines.embeddings(1))


def test_a_part_that_a_single_file_lacks(single, pipelines):
    path, config, _ = single
    next((config / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"sd.safetensors: diffusers cannot load this pipeline \(.*AutoencoderKL"):
        rs.load(path, config=config, **pipelines.embeddings(1))


def test_a_pipeline_pins_no_file(pipelines):
    with pytest.raises(CheckpointError, match="sha256 pins a file"):
        rs.load(pipelines.ddpm(), sha256="0" * 64)


# --- a guide


@pytest.fixture
def two(tmp_path):
    """Files of two networks, the second without classes."""
    paths = tmp_path / "main.safetensors", tmp_path / "guide.safetensors"
    for seed, (path, label_dim) in enumerate(zip(paths, (3, 0), strict=True)):
        save_safetensors(path, build_network(SMALL | {"label_dim": label_dim}, seed=seed), {})
    return paths


def test_a_guide_is_another_file_a_name_or_a_denoiser(two):
    main, guide = two
    plan = rs.Plan.build(steps=4, guidance_scale=1.5)
    by_hand = rs.load(main).guided_by(rs.load(guide))
    want = rs.sample(by_hand, plan, range(3))
    assert not torch.equal(want, rs.sample(rs.load(main), rs.Plan.build(steps=4), range(3)))
    for given in (guide, str(guide), rs.load(guide)):
        den = rs.load(main, guide=given)
        assert torch.equal(rs.sample(den, plan, range(3)), want)
        assert (den.name, den.guide.name) == ("main.safetensors", "guide.safetensors")
        assert repr(den).endswith("on cpu, guided by 'guide.safetensors')")
        assert den.info["guide"]["path"] == str(guide) and den.info["path"] == str(main)
    assert rs.load("fashion-mnist", guide="fashion-mnist").guide.name == "fashion-mnist"


def test_the_two_have_names_of_their_own(two):
    """Whatever names a network's samples names those of both files, and whether the guide is told the null."""
    main, guide = two
    found = [rs.load(main), rs.load(main, guide=guide), rs.load(main, guide=main)]
    found += [rs.load(main, guide=main, guide_null=True)]
    assert len({den.info["sha256"] for den in found}) == 4
    assert all(den.info["network_sha256"] == found[0].info["sha256"] for den in found[1:])
    assert found[1].info["guide"]["sha256"] == rs.load(guide).info["sha256"]
    assert len({den.weights_sha256() for den in found[:3]}) == 3
    function = rs.Denoiser.from_function(lambda x, sigma, class_labels: x, (1, 8, 8), label_dim=3)
    assert "sha256" not in function.guided_by(function).info


def test_a_guide_that_is_told_the_null_is_classifier_free_guidance(two):
    plan = rs.Plan.build(steps=4, guidance_scale=1.5)
    den = rs.load(two[0], guide=two[0], guide_null=True)
    want = rs.sample(rs.load(two[0]), plan, range(3))
    assert (rs.sample(den, plan, range(3)) - want).abs().max() <= 1e-5 * want.abs().max()


def test_guides_that_are_refused(two, pipelines, folder):
    main, guide = two
    for source, other in ((pipelines.ddpm(), guide), (folder, guide), (main, pipelines.ddpm()), (main, folder)):
        with pytest.raises(CheckpointError, match="guide is for networks of model files"):
            rs.load(source, guide=other)
    with pytest.raises(rs.RestartError, match=r"no model file 'nowhere\.pkl'"):
        rs.load(main, guide="nowhere.pkl")
    with pytest.raises(rs.RestartError, match=r"condition 'class_labels' of 'guide\.safetensors' is none"):
        rs.load(guide, guide=main)
    with pytest.raises(rs.RestartError, match="guide_null says what a guide is told, and no guide is given"):
        rs.load(main, guide_null=True)


def test_edm2_is_guided_by_another_network_only(tmp_path):
    """Its training leaves no class out, so that its row of zeros is no null."""
    from support import edm2_golden

    paths = {name: tmp_path / f"{name}.safetensors" for name in ("main", "unconditional")}
    save_safetensors(paths["main"], edm2_golden.network(), {})
    save_safetensors(paths["unconditional"], edm2_golden.network({"model_channels": 16, "label_dim": 0}, first=500), {})
    plan = rs.Plan.build(steps=3, guidance_scale=1.4)
    with pytest.raises(rs.RestartError, match=r"'class_labels' of 'main.safetensors' has none; .* \(.*--guide\)"):
        rs.Sampler(rs.load(paths["main"]), plan)
    guided = rs.load(paths["main"], guide=paths["unconditional"])
    assert not torch.equal(rs.sample(guided, plan, [0, 1]), rs.sample(guided, rs.Plan.build(steps=3), [0, 1]))
    with pytest.raises(rs.RestartError, match="null=True needs a null of condition 'class_labels'"):
        rs.load(paths["main"], guide=paths["main"], guide_null=True)
