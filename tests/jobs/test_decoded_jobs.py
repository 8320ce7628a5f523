"""Latents: how a VAE makes images of them, in `rs.sample` and beside the sampler of a job."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError, OutputError, RestartError, RestartValueError
from restart_sampling.jobs.decoding import DecodingThread
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.pixels import HostRing
from restart_sampling.jobs.repeat import recorded

pytest.importorskip("diffusers")

from support import diffusers_pipelines
from support.commands import run

from restart_sampling.integrations.diffusers.vae import Decoder, open_vae

pytestmark = pytest.mark.usefixtures("one_thread")
PLAN = rs.Plan.build(steps=3, restart="[2, 1, 0.5, 2]")
ENCODER = {"kind": "vae", "name": "sd-vae", "scale": [0.5, 0.4, 2.0, 0.1], "bias": [-0.7, 0.3, 0.0, 0.1]}
SEEDS = [5, 40, 3, 17, 16, 90, 4]  # in three shards, and in no order


def network(x, sigma):
    return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)


def model(encoder=ENCODER, channels=4) -> rs.Denoiser:
    info = {} if encoder is None else {"encoder": encoder}
    return replace(rs.Denoiser.from_function(network, (channels, 6, 6), name="latents"), info=info)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    diffusers_pipelines.vae(scaling_factor=0.3).save_pretrained(folder)
    return folder


def draw(out, vae, denoiser=None, seeds=SEEDS, **options):
    options = dict(batch=3, shard_size=16, sheets=0, format="npz") | options
    return run_job(denoiser or model(), PLAN, seeds, out, decode=vae, **options)


def arrays(out):
    """The samples of a job of npz files, by seed."""
    found = {}
    for path in sorted((out / "samples").glob("*.npz")):
        with np.load(path) as file:
            name = "samples" if "samples" in file else "arr_0"
            found |= dict(zip(file["seeds"].tolist(), file[name], strict=True))
    return found


def test_edm2_s_convention(vae):
    """z = (x − bias)/scale, and the VAE's output is in [0, 1]; the reference is written out here, in float64."""
    x = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    images = Decoder(open_vae(vae), ENCODER, batch_size=2)(x)
    exact = open_vae(vae).double()
    z = torch.stack([(x[:, c].double() - ENCODER["bias"][c]) / ENCODER["scale"][c] for c in range(4)], dim=1)
    with torch.no_grad():
        wanted = exact.decode(z).sample.clamp(0, 1)
    assert images.dtype == torch.float32
    assert torch.allclose(images.double(), wanted, atol=2e-5)
    assert 0.05 < float((wanted == 0).double().mean()) < 0.95  # some are clamped, and some are not


def test_the_convention_of_diffusers(vae):
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    images = Decoder(open_vae(vae))(x)
    with torch.no_grad():
        wanted = open_vae(vae).double().decode(x.double() / 0.3).sample
    assert torch.allclose(images.double(), (wanted / 2 + 0.5).clamp(0, 1), atol=2e-5)


def test_pixels_are_cut_by_edm2_and_rounded_by_diffusers(vae):
    y = torch.tensor([0.0, 0.9 / 255, 1.5 / 255, 254.6 / 255, 1.0]).view(1, 1, 1, 5)
    one, other = Decoder(open_vae(vae), ENCODER), Decoder(open_vae(vae))
    assert one.pixels(y).flatten().tolist() == [0, 0, 1, 254, 255]
    assert other.pixels(y).flatten().tolist() == [0, 1, 2, 255, 255]


def test_sample_decodes(vae):
    latents = rs.sample(model(), PLAN, SEEDS)
    images = rs.sample(model(), PLAN, SEEDS, decode=vae)
    assert images.shape == (7, 3, 12, 12)
    assert torch.equal(images, Decoder(open_vae(vae), ENCODER)(latents))
    assert torch.equal(images, rs.sample(model(), PLAN, SEEDS, decode=open_vae(vae)))


def test_a_job_has_the_pixels_of_the_decoded_samples(vae, tmp_path):
    draw(tmp_path / "job", vae)
    images = rs.sample(model(), PLAN, SEEDS, decode=vae)
    wanted = (images * 255).floor().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    found = arrays(tmp_path / "job")
    for seed, image in zip(SEEDS, wanted, strict=True):
        assert found[seed].shape == (12, 12, 3)
        # The samples of a job may differ in the last bit, which a floor can make a level.
        assert np.abs(found[seed].astype(int) - image).max() <= 1
        assert (found[seed] != image).mean() < 0.01
    draw(tmp_path / "floats", vae, pixels="float32")
    floats = arrays(tmp_path / "floats")
    for seed, image in zip(SEEDS, images.numpy(), strict=True):
        np.testing.assert_allclose(floats[seed], image, atol=1e-5)


def test_latents_are_kept_as_they_are(vae, tmp_path):
    run_job(model(), PLAN, SEEDS, tmp_path, batch=3, sheets=0, format="npz", pixels="float32")
    for seed, latent in zip(SEEDS, rs.sample(model(), PLAN, SEEDS).numpy(), strict=True):
        np.testing.assert_allclose(arrays(tmp_path)[seed], latent, rtol=1e-5)


def test_png_files_of_a_latent_model(vae, tmp_path):
    from PIL import Image

    draw(tmp_path, vae, format="png", seeds=[3, 4])
    assert [Image.open(path).size for path in sorted(tmp_path.rglob("samples/**/*.png"))] == [(12, 12)] * 2


def test_a_resumed_job_equals_an_unbroken_one(vae, tmp_path):
    draw(tmp_path / "whole", vae)
    draw(tmp_path / "parts", vae, seeds=SEEDS[:3])
    draw(tmp_path / "parts", vae, decode_batch=1, batch=2)
    whole, parts = arrays(tmp_path / "whole"), arrays(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for seed in SEEDS:
        assert np.abs(whole[seed].astype(int) - parts[seed]).max() <= 1


def test_another_vae_is_another_job(vae, tmp_path):
    draw(tmp_path / "job", vae)
    other = tmp_path / "other"
    diffusers_pipelines.vae(scaling_factor=0.31).save_pretrained(other)
    with pytest.raises(OutputError, match=r"the folder holds another job: vae_sha256 is .* there and .* here"):
        draw(tmp_path / "job", other)
    with pytest.raises(OutputError, match=r"holds another job: vae_sha256 is .* there and null here"):
        run_job(model(None), PLAN, SEEDS, tmp_path / "job", batch=3, shard_size=16, sheets=0, format="npz")


def test_the_record_names_the_vae(vae, tmp_path):
    draw(tmp_path / "job", vae, decode_batch=2)
    said = json.loads((tmp_path / "job" / "run.json").read_text())
    assert (said["vae_folder"], said["decode_batch"]) == (str(vae.resolve()), 2)
    said["vae_sha256"] = "0" * 64
    (tmp_path / "job" / "run.json").write_text(json.dumps(said))
    with pytest.raises(OutputError, match=r"'job_digest' is that of other values: one of .*vae_sha256"):
        recorded(tmp_path / "job" / "run.json")


def test_folders_that_are_refused(vae, tmp_path):
    def refused(folder, message, kind=CheckpointError, denoiser=None, **options):
        with pytest.raises(kind, match=message):
            draw(tmp_path / "job", folder, denoiser, **options)
        assert not (tmp_path / "job").exists()  # nothing was written

    refused(tmp_path, "not the folder of a VAE")
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    refused(tmp_path, "must be AutoencoderKL, AutoencoderDC or AutoencoderKLQwenImage, got 'UNet2DModel'")
    (tmp_path / "config.json").write_text((vae / "config.json").read_text())
    refused(tmp_path, "diffusers cannot load this VAE")
    config = json.loads((vae / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_channels": "four"}))
    refused(tmp_path, "latent_channels in config.json must be an integer")
    (tmp_path / "config.json").unlink()
    refused(vae, r"decodes latents \(4, H, W\), and the samples are \(3, 6, 6\)", RestartValueError, model(None, 3))
    short = {**ENCODER, "scale": [1.0] * 3, "bias": [0.0] * 3}
    refused(vae, "decodes 4 channels, and the model's latents have 3", RestartValueError, model(short))
    refused(vae, "draws images and no latents", RestartValueError, model({"kind": "rgb"}))
    refused(vae, "decode_batch must be", RestartValueError, decode_batch=5)
    with pytest.raises(OutputError, match="are latents; give the folder of their VAE"):
        run_job(model(), PLAN, SEEDS, tmp_path / "job")


def test_the_sampler_does_not_wait_for_the_decoder():
    """Batch 2 is taken while batch 1 is still being decoded: the test would hang if taking waited."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def __call__(self, x):
            begun.set()
            assert go_on.wait(60)
            return x

        def pixels(self, images):
            return images.to(torch.uint8)

    thread = DecodingThread(Slow(), "uint8", HostRing("uint8").take)
    one = thread.take(torch.ones(2, 3, 4, 4))
    assert begun.wait(60)
    other = thread.take(2 * torch.ones(2, 3, 4, 4))
    go_on.set()
    assert (one() == 1).all() and (other() == 2).all()


def test_an_error_of_the_decoder_ends_the_job_and_keeps_what_is_drawn(vae, tmp_path, monkeypatch):
    calls = []

    def failing(self, latents):
        calls.append(len(latents))
        if len(calls) == 3:
            raise RestartError("the decoder failed")
        return torch.zeros(len(latents), 3, 12, 12)

    monkeypatch.setattr(Decoder, "__call__", failing)
    with pytest.raises(RestartError, match="the decoder failed"):
        draw(tmp_path, vae, seeds=range(32), batch=8)
    monkeypatch.undo()
    assert sorted(arrays(tmp_path)) == [*range(16), *range(24, 32)]  # the one that was drawn meanwhile is kept too
    draw(tmp_path, vae, seeds=range(32), batch=8)
    assert len(arrays(tmp_path)) == 32


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A tiny EDM2 network of latents, as `convert` writes one."""
    from restart_sampling.models.family import build_network
    from restart_sampling.models.files.weights import save_safetensors

    config = {"class_name": "Precond", "img_resolution": 4, "img_channels": 4, "label_dim": 0, "model_channels": 8}
    config |= {"channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8}
    network = build_network(config, seed=0)
    with torch.no_grad():
        network.unet.out_gain.fill_(0.5)
    path = tmp_path_factory.mktemp("model") / "latents.safetensors"
    save_safetensors(path, network, {"name": "latents", "encoder": ENCODER})
    return path


def test_generate_decodes_and_repeats(model_file, vae, tmp_path, capsys):
    asked = ["generate", "--model", model_file, "--steps", "3", "--seeds", "0-2", "--format", "npz", "--sheets", "0"]
    code, _, said = run(capsys, *asked, "--out", tmp_path / "none")
    assert code == 2
    assert "are latents; give the folder of their VAE as decode (--decode FOLDER)" in said
    assert run(capsys, *asked, "--decode", vae, "--out", tmp_path / "job")[0] == 0
    assert {image.shape for image in arrays(tmp_path / "job").values()} == {(8, 8, 3)}
    assert run(capsys, "generate", "--repeat", tmp_path / "job", "--out", tmp_path / "again")[0] == 0
    for seed, image in arrays(tmp_path / "job").items():
        assert np.array_equal(arrays(tmp_path / "again")[seed], image)
    other = tmp_path / "other"
    diffusers_pipelines.vae(scaling_factor=0.31).save_pretrained(other)
    file = tmp_path / "job" / "run.json"
    said = json.loads(file.read_text())
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps(said | {"vae_folder": str(tmp_path / "gone")}))
    code, _, text = run(capsys, "generate", "--repeat", moved, "--out", tmp_path / "third")
    assert code == 2 and "gone; say with `generate --repeat … --decode` where it is now" in " ".join(text.split())
    repeat = ["generate", "--repeat", tmp_path / "job", "--out", tmp_path / "third"]
    code, _, said = run(capsys, *repeat, "--decode", other)
    assert code == 2 and "does not hold the VAE of the recorded run" in said
    code, _, said = run(capsys, *repeat, "--decode-batch", "2")
    assert code == 2 and "leave out --decode-batch" in said
    assert run(capsys, *repeat, "--decode", vae)[0] == 0


def test_verify_and_status_know_decoded_jobs(model_file, vae, tmp_path, capsys):
    asked = ["generate", "--model", model_file, "--steps", "2", "--seeds", "0-1", "--decode", vae, "--out", tmp_path]
    assert run(capsys, *asked)[0] == 0
    assert run(capsys, "verify", tmp_path, "--decode", "1")[0] == 0
    assert run(capsys, "status", tmp_path)[0] == 0
