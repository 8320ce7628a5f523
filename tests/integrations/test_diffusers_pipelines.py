"""Real diffusers pipelines with tiny random networks: what they call, what they draw, and the fast path beside them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
from support import diffusers_pipelines as tiny
from support.replays import with_graph
from support.tape import TapeCapture

import restart_sampling as rs
from restart_sampling.common.errors import RestartError
from restart_sampling.integrations.diffusers import (
    FlowMatchRestartScheduler,
    RestartScheduler,
    SchedulerError,
    denoiser_of,
    draw,
    prompt_conditions,
)

pytestmark = pytest.mark.usefixtures("one_thread")

diffusers.utils.logging.set_verbosity_error()
SEEDS = [3, 4]
VP = dict(restart="[3, 2, 0.3, 1.0]", grid="karras", steps_are="main", initial_noise="engine")
FLOW = dict(restart="[3, 2, 0.4, 0.8]", steps_are="main")


def start(seeds=SEEDS) -> torch.Tensor:
    return rs.noise.normal(seeds, 0, (4, 8, 8))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


# Scheduler in the pipeline, and the engine around the same network


@pytest.mark.parametrize("name, state", [("stable_diffusion", "ve"), ("stable_diffusion_xl", "vp")])
def test_stable_diffusion(name, state):
    pipe, texts = getattr(tiny, name)(), tiny.embeddings(2, pooled=name.endswith("xl"))
    pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config, state=state, seeds=SEEDS, **VP)
    calls = tiny.counted(pipe.unet)
    a = pipe(**texts, latents=start(), num_inference_steps=6, output_type="latent", guidance_scale=3.0).images
    assert calls == [4] * 19 and len(pipe.scheduler.timesteps) == pipe.scheduler.plan.nfe == 19
    assert pipe.scheduler.plan.draws == 2
    b = draw(pipe, **texts, plan=pipe.scheduler.plan, seeds=SEEDS, guidance_scale=3.0, decode=False)
    assert close(a, b)
    want = pipe(**texts, latents=start(), num_inference_steps=6, output_type="pt", guidance_scale=3.0).images
    images = draw(pipe, **texts, plan=pipe.scheduler.plan, seeds=SEEDS, guidance_scale=3.0)
    assert images.shape == (2, 3, 16, 16) and images.dtype == torch.float32
    assert (images - want).abs().max() <= 1e-4


def test_stable_diffusion_3():
    pipe, texts = tiny.stable_diffusion_3(), tiny.embeddings(2, pooled=True)
    pipe.scheduler = FlowMatchRestartScheduler.from_config(pipe.scheduler.config, seeds=SEEDS, **FLOW)
    calls, size = tiny.counted(pipe.transformer), dict(height=16, width=16)
    run = dict(latents=start(), num_inference_steps=6, guidance_scale=3.0)
    a = pipe(**texts, **size, **run, output_type="latent").images
    assert calls == [4] * 19 and len(pipe.scheduler.timesteps) == pipe.scheduler.plan.nfe == 19
    b = draw(pipe, **texts, **size, plan=pipe.scheduler.plan, seeds=SEEDS, guidance_scale=3.0, decode=False)
    assert close(a, b)
    images = draw(pipe, **texts, **size, plan=pipe.scheduler.plan, seeds=SEEDS, guidance_scale=3.0)
    want = pipe(**texts, **size, **run, output_type="pt").images
    assert (images - want).abs().max() <= 1e-4


def test_flux():
    """Without jumps: the pipeline holds packed latents, whose elements are in another order than the engine's noise."""
    pipe, texts = tiny.flux(), tiny.embeddings(2, pooled=True)
    texts = {k: v for k, v in texts.items() if not k.startswith("negative")}
    pipe.scheduler = FlowMatchRestartScheduler.from_config(pipe.scheduler.config, restart=None)
    calls, size = tiny.counted(pipe.transformer), dict(height=16, width=16)
    packed = pipe._pack_latents(start(), 2, 4, 8, 8)
    a = pipe(**texts, **size, latents=packed, num_inference_steps=11, output_type="latent", guidance_scale=3.0).images
    assert calls == [2] * 11 and pipe.scheduler.plan.config.steps == 6
    a = pipe._unpack_latents(a, 16, 16, pipe.vae_scale_factor)
    b = draw(pipe, **texts, **size, plan=pipe.scheduler.plan, seeds=SEEDS, guidance_scale=3.0, decode=False)
    assert close(a, b, 1e-4)
    pipe.scheduler = FlowMatchRestartScheduler.from_config(pipe.scheduler.config, **FLOW)
    calls.clear()
    pipe(**texts, **size, num_inference_steps=6, output_type="latent")
    assert calls == [2] * 19 and pipe.scheduler.plan.draws == 2


def test_dit():
    pipe = tiny.dit()
    pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config, seeds=SEEDS, **VP)
    calls = tiny.counted(pipe.transformer)
    a = pipe(
        class_labels=[1, 207],
        num_inference_steps=6,
        output_type="pt",
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(s) for s in SEEDS],
    ).images
    assert calls == [4] * 19 == [4] * pipe.scheduler.plan.nfe and a.shape == (2, 3, 16, 16)
    # DiTPipeline draws its start itself, from the generators
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in SEEDS])
    denoiser, plan = denoiser_of(pipe), pipe.scheduler.plan
    guided = rs.Plan.build(**{**plan.config.to_dict(), "guidance_scale": 3.0})
    sampler = rs.Sampler(denoiser, guided, 2)
    # … and does not scale it: its unit noise is √(σ² + 1)·ε
    scale = (1 + plan.grid[0] ** 2) ** 0.5 / plan.grid[0]
    from restart_sampling.integrations.diffusers.pipeline import decoded

    b = decoded(pipe, sampler.run(SEEDS, [1, 207], latents=noise * scale))
    assert (a - b).abs().max() <= 1e-4
    assert draw(pipe, plan=plan, seeds=SEEDS, class_labels=[1, 207], guidance_scale=3.0).shape == (2, 3, 16, 16)


def test_ddpm_pipeline():
    pipe = tiny.ddpm()
    pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config, state="ve", **VP)
    with pytest.raises(SchedulerError, match="does not call scale_model_input"):
        pipe(batch_size=2, num_inference_steps=6)
    pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config, seeds=SEEDS, state="vp", **VP)
    calls = tiny.counted(pipe.unet)
    images = pipe(batch_size=2, num_inference_steps=6, output_type="pt").images
    assert calls == [2] * 19 and images.isfinite().all()
    assert draw(pipe, plan=pipe.scheduler.plan, seeds=SEEDS).shape == (2, 3, 8, 8)


def test_batch_of_one_equals_its_row():
    pipe = tiny.stable_diffusion()
    pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config, **VP)
    texts = tiny.embeddings(3)

    def sampled(rows):
        return pipe(
            **{k: v[rows] for k, v in texts.items()},
            num_inference_steps=5,
            output_type="latent",
            generator=[torch.Generator().manual_seed(50 + r) for r in rows],
        ).images

    assert close(sampled([1])[0], sampled([0, 1, 2])[1], 1e-4)


# Images as a start


@pytest.mark.filterwarnings("ignore:Restart interval")
@pytest.mark.parametrize("strength, main, jumps", [(0.3, 3, 0), (0.6, 7, 2), (1.0, 12, 2)])
def test_image_to_image(strength, main, jumps):
    pipe = tiny.stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline)
    pipe.scheduler = RestartScheduler.from_config(
        pipe.scheduler.config, restart="[3, 2, 0.1, 0.8]", grid="karras", steps_are="main"
    )
    calls = tiny.counted(pipe.unet)
    out = pipe(
        image=torch.rand(2, 3, 16, 16),
        **tiny.embeddings(2),
        strength=strength,
        num_inference_steps=12,
        output_type="pt",
    ).images
    assert out.isfinite().all()
    assert len(calls) == pipe.scheduler.plan.nfe == 2 * main - 1 + jumps * 4
    assert pipe.scheduler.plan.draws == jumps


@pytest.mark.filterwarnings("ignore:Restart interval")
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpainting(strength):
    """Where the mask says keep, the result is the given image, through every jump."""
    pipe = tiny.stable_diffusion(diffusers.StableDiffusionInpaintPipeline)
    pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config, **VP)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    g = torch.Generator().manual_seed(0)
    out = pipe(
        image=image,
        mask_image=mask,
        **tiny.embeddings(1),
        strength=strength,
        num_inference_steps=8,
        height=16,
        width=16,
        output_type="latent",
        generator=g,
    ).images
    kept = pipe._encode_vae_image(image, generator=torch.Generator().manual_seed(0))
    mean = pipe.vae.encode(image).latent_dist.mean * pipe.vae.config.scaling_factor
    std = pipe.vae.encode(image).latent_dist.std * pipe.vae.config.scaling_factor
    assert kept.shape == out.shape
    assert ((out - mean).abs() / std)[..., :4].max() < 6  # latents of the image, drawn anew by the pipeline
    assert ((out - mean).abs() / std)[..., 4:].max() > 6


def test_stable_diffusion_3_image_to_image():
    pipe = tiny.stable_diffusion_3(diffusers.StableDiffusion3Img2ImgPipeline)
    pipe.scheduler = FlowMatchRestartScheduler.from_config(
        pipe.scheduler.config, restart="[3, 1, 0.3, 0.6]", steps_are="main"
    )
    calls = tiny.counted(pipe.transformer)
    texts = tiny.embeddings(2, pooled=True)
    pipe(image=torch.rand(2, 3, 16, 16), **texts, strength=0.6, num_inference_steps=10, height=16, width=16)
    assert len(calls) == pipe.scheduler.plan.nfe == 2 * 6 - 1 + 4


def test_a_saved_pipeline_comes_back_with_its_scheduler(tmp_path):
    pipe = tiny.stable_diffusion()
    pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config, **VP)
    pipe.save_pretrained(tmp_path)
    missing = ("safety_checker", "text_encoder", "tokenizer", "feature_extractor", "image_encoder")
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, **dict.fromkeys(missing))
    assert isinstance(again.scheduler, RestartScheduler) and again.scheduler.config.restart == VP["restart"]
    back = diffusers.EulerDiscreteScheduler.from_config(again.scheduler.config)
    assert back.config.steps_offset == 1


# The fast path


@pytest.fixture
def sd():
    return tiny.stable_diffusion()


PLAN = rs.Plan.build(steps=5, restart="[3, 1, 0.5, 1.5]", guidance_scale=3.0)


def test_draw_depends_on_seed_and_prompt_alone(sd):
    texts = tiny.embeddings(3)
    whole = draw(sd, **texts, plan=PLAN, seeds=[7, 8, 9], decode=False)
    parts = draw(sd, **texts, plan=PLAN, seeds=[7, 8, 9], batch_size=2, decode=False)
    one = draw(
        sd,
        prompt_embeds=texts["prompt_embeds"][1:2],
        negative_prompt_embeds=texts["negative_prompt_embeds"][:1],
        plan=PLAN,
        seeds=[8],
        decode=False,
    )
    assert close(parts, whole, 1e-4) and close(one[0], whole[1], 1e-4)
    other = draw(sd, **{k: v.flip(0) for k, v in texts.items()}, plan=PLAN, seeds=[7, 8, 9], decode=False)
    assert close(other[1], whole[1], 1e-4) and not close(other[0], whole[0], 1e-2)


@torch.no_grad()
def test_guidance_is_the_formula(sd):
    """Euler: D = x − σ·(F_u + w(F_c − F_u)), the network called by hand."""
    texts, w = tiny.embeddings(2), 3.0
    plan = rs.Plan.build(steps=2, solver="euler", guidance_scale=w, sigma_min=0.1, sigma_max=14.0)
    denoiser = denoiser_of(sd, **texts)
    got = rs.Sampler(denoiser, plan, 2).run(SEEDS, [0, 1])
    x = plan.grid[0] * start()
    known = denoiser.parameterization
    for t, s in pairwise(plan.grid):
        c = known.coefficients(t)
        F = [
            sd.unet(float(c.c_in) * x, torch.tensor(float(c.c_noise)), encoder_hidden_states=e, return_dict=False)[0]
            for e in (texts["negative_prompt_embeds"], texts["prompt_embeds"])
        ]
        x = x + (s - t) * (F[0] + w * (F[1] - F[0]))
    assert close(got, x, 1e-4)


def test_the_network_is_shared_not_copied(sd):
    denoiser = denoiser_of(sd, **tiny.embeddings(1))
    assert denoiser.network.net is sd.unet and denoiser.shape == (4, 8, 8)
    assert denoiser_of(sd, **tiny.embeddings(1), height=32, width=16).shape == (4, 16, 8)


def test_without_a_negative_prompt(sd):
    texts = {"prompt_embeds": tiny.embeddings(1)["prompt_embeds"]}
    with pytest.raises(RestartError, match="guidance needs negative_prompt_embeds"):
        draw(sd, **texts, plan=PLAN, seeds=SEEDS)
    plain = rs.Plan.build(steps=4)
    assert draw(sd, **texts, plan=plan_without_guidance(PLAN), seeds=SEEDS).isfinite().all()
    denoiser = denoiser_of(sd, **texts, guided=False)
    assert rs.Sampler(denoiser, plain, 2).run(SEEDS).isfinite().all()
    with pytest.raises(RestartError, match="needs a null of every condition, and 'prompt_embeds'"):
        rs.Sampler(denoiser, PLAN, 2)  # a guided plan cannot use what was not given


def plan_without_guidance(plan: rs.Plan) -> rs.Plan:
    return rs.Plan.build(**{**plan.config.to_dict(), "guidance_scale": 1.0})


def test_prompts_go_through_the_pipelines_encoder(sd, monkeypatch):
    """Each by itself, and the negative prompt once."""
    asked, texts = [], tiny.embeddings(2)

    def encode_prompt(prompt, device, num_images_per_prompt, do_classifier_free_guidance, negative_prompt=None):
        asked.append((prompt, do_classifier_free_guidance, negative_prompt))
        row = ["a fox", "a hare"].index(prompt)
        return texts["prompt_embeds"][row : row + 1], texts["negative_prompt_embeds"][:1]

    monkeypatch.setattr(sd, "encode_prompt", encode_prompt)
    images = draw(sd, ["a fox", "a hare"], plan=PLAN, seeds=SEEDS, negative_prompt="fog")
    assert asked == [("a fox", True, "fog"), ("a hare", False, None)]
    want = draw(sd, **texts, plan=PLAN, seeds=SEEDS)
    assert torch.equal(images, want)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(negative_prompt="fog"), "give negative_prompt_embeds instead"),
        (dict(negative_prompt_embeds=torch.randn(2, 5, 16)), "the same for all prompts"),
        (dict(image_embeds=1), "unknown argument 'image_embeds'"),
        (dict(prompt="a fox"), "either prompt or prompt_embeds"),
        (dict(height=15), "height must be a multiple of 2"),
        (dict(seeds=[1, 2, 3]), "2 prompts were given for 3 seeds"),
    ],
)
def test_wrong_arguments(sd, change, message):
    with pytest.raises(RestartError, match=message):
        draw(sd, **{**tiny.embeddings(2), "plan": PLAN, "seeds": SEEDS, **change})


def test_lengths_and_prompts_where_there_are_none(sd):
    with pytest.raises(RestartError, match="has one length of prompts; leave out max_sequence_length"):
        draw(sd, "a fox", plan=PLAN, seeds=SEEDS, max_sequence_length=7)
    with pytest.raises(RestartError, match="DDPMPipeline takes no text"):
        prompt_conditions(tiny.ddpm(), "a fox")


def test_networks_that_do_not_run_here():
    with pytest.raises(RestartError, match=r"9 input and 4 output channels"):
        denoiser_of(tiny.stable_diffusion(in_channels=9), **tiny.embeddings(1))
    with pytest.raises(RestartError, match="LCM"):
        denoiser_of(tiny.stable_diffusion(time_cond_proj_dim=8), **tiny.embeddings(1))
    pipe = tiny.stable_diffusion_xl()
    with pytest.raises(RestartError, match="needs pooled_prompt_embeds"):
        denoiser_of(pipe, **tiny.embeddings(1))
    pipe.unet._hf_hook = object()
    with pytest.raises(RestartError, match="offloads its network"):
        denoiser_of(pipe, **tiny.embeddings(1))
    pipe.unet = torch.nn.Identity()
    with pytest.raises(RestartError, match="has a Identity, and only"):
        denoiser_of(pipe, **tiny.embeddings(1))


def test_in_half_precision(sd):
    """The network's own dtype is used, and the latents come back as float32."""
    want = draw(sd, **tiny.embeddings(2), plan=PLAN, seeds=SEEDS, decode=False)
    sd.unet.to(torch.bfloat16)
    got = draw(sd, **tiny.embeddings(2), plan=PLAN, seeds=SEEDS, decode=False)
    assert got.dtype == torch.float32 and close(got, want, 0.1) and not torch.equal(got, want)


@pytest.mark.parametrize("mode", ["run", "mixed", "graph"])
@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux"])
def test_prompts_are_conditions_of_any_number(name, mode):
    """A pipeline loaded with one prompt draws others, as one loaded with them does; graphs need no new capture."""
    pipe, flow = getattr(tiny, name)(), name in ("stable_diffusion_3", "flux")
    texts, size = tiny.embeddings(5, pooled=name != "stable_diffusion"), dict(height=16, width=16) if flow else {}
    if name == "flux":
        texts = {k: v for k, v in texts.items() if not k.startswith("negative")}
    guided = {} if name == "flux" else dict(guidance_scale=3.0)
    plan = rs.Plan.build(steps=4, schedule="flow" if flow else "edm", **guided)
    denoiser = denoiser_of(pipe, **{k: v[:1] for k, v in texts.items()}, **size)
    assert denoiser.label_dim == 1 and "class_labels" not in denoiser.conditions
    order = [3, 1, 4, 0, 2]
    want = rs.Sampler(denoiser_of(pipe, **texts, **size), plan, 2).run(range(5), order)
    given = {k: v[order] for k, v in texts.items() if not k.startswith("negative")}
    seeds = [(i, plan) for i in range(5)] if mode == "mixed" else range(5)
    sampler, capture = rs.Sampler(denoiser, plan, 2), TapeCapture()
    if mode == "graph":
        with_graph(sampler, "loop", capture)
    sampler.run(seeds)
    recorded = len(capture.recorded)
    assert close(sampler.run(seeds, conditions=given), want, 1e-4)
    assert (recorded > 0) == (mode == "graph") and len(capture.recorded) == recorded
    triples = [(i, plan, {k: v[i] for k, v in given.items()}) for i in range(5)]
    assert close(sampler.run(triples), want, 1e-4)
    assert sampler.executor.note == ""
    shapes = {tuple(v.shape[1:]) for v in texts.values()}
    assert not [t.shape for t in sampler.network.tensors() if t.shape[1:] in shapes and t.ndim == 3]


def test_sizes_and_distilled_guidance_are_conditions():
    """Each sample may have its own; by default all have those of the pipeline."""
    pipe, plan = tiny.stable_diffusion_xl(), rs.Plan.build(steps=3, guidance_scale=2.0)
    sampler = rs.Sampler(denoiser_of(pipe, **tiny.embeddings(1, pooled=True)), plan, 4)
    assert sampler.denoiser.conditions["time_ids"].constant.tolist() == [16, 16, 0, 0, 16, 16]
    usual = sampler.run([0, 0])
    ids = torch.tensor([[16.0, 16, 0, 0, 16, 16], [64, 64, 8, 8, 16, 16]])
    found = sampler.run([0, 0], conditions={"time_ids": ids})
    assert close(found[0], usual[0], 1e-5) and not close(found[1], usual[1], 1e-2)
    pipe, plan = tiny.flux(), rs.Plan.build(steps=3, schedule="flow")
    texts = {k: v for k, v in tiny.embeddings(1, pooled=True).items() if not k.startswith("negative")}
    size = dict(height=16, width=16)
    sampler = rs.Sampler(denoiser_of(pipe, **texts, **size), plan, 4)
    other = rs.Sampler(denoiser_of(pipe, **texts, **size, distilled_guidance=7.0), plan, 4)
    found = sampler.run([0, 0], conditions={"guidance": [3.5, 7.0]})
    assert close(found[0], sampler.run([0, 0])[0], 1e-5) and close(found[1], other.run([0, 0])[1], 1e-5)
    assert not close(found[0], found[1], 1e-3)


def test_prompts_of_another_length_are_refused(sd):
    sampler = rs.Sampler(denoiser_of(sd, **tiny.embeddings(1)), PLAN, 2)
    with pytest.raises(RestartError, match=r"'prompt_embeds' must be float32 \[2, 5, 16\].*got float32 \[2, 9, 16\]"):
        sampler.run([0, 1], conditions={"prompt_embeds": torch.zeros(2, 9, 16)})


def test_rs_load_takes_a_pipeline(sd):
    """Two lines: the denoiser of a pipeline, and samples from it."""
    denoiser = rs.load(sd, **tiny.embeddings(1))
    x = rs.sample(denoiser, rs.Plan.build(steps=2, sigma_min=0.1, sigma_max=5.0), seeds=range(2), class_labels=0)
    assert torch.equal(
        x,
        rs.sample(
            denoiser_of(sd, **tiny.embeddings(1)),
            rs.Plan.build(steps=2, sigma_min=0.1, sigma_max=5.0),
            seeds=range(2),
            class_labels=0,
        ),
    )
    with pytest.raises(rs.CheckpointError, match="sha256 pins a file"):
        rs.load(sd, sha256="0" * 64)
    with pytest.raises(rs.CheckpointError, match="prompt is only for diffusers pipelines"):
        rs.load("fashion-mnist", prompt="a fox")


def test_draw_says_how_a_plan_and_seeds_are_given():
    with pytest.raises(rs.RestartError, match=r"plan must be a Plan, got 'sd15-w8'; use rs.preset\('sd15-w8'\)"):
        draw(None, "a cat", plan="sd15-w8", seeds=[0])
    with pytest.raises(rs.SeedError, match=r"write range\(8\) for 8 samples"):
        draw(tiny.ddpm(), plan=rs.Plan.build(steps=5), seeds=8)
