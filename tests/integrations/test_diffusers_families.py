"""Families of text-to-image networks in the real pipelines of diffusers: the engine draws what their own loops draw."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
from support import diffusers_families as families
from support.diffusers_families import FAMILIES, NEGATIVE, PROMPTS, case
from support.replays import with_graph
from support.tape import TapeCapture

import restart_sampling as rs
from restart_sampling.common.errors import BackendError, ConfigError
from restart_sampling.integrations.diffusers import conditioning, denoiser_of, draw, network, prompt_conditions
from restart_sampling.integrations.diffusers.pipeline import decoded

pytestmark = pytest.mark.usefixtures("one_thread")

diffusers.utils.logging.set_verbosity_error()
STEPS, W, SEEDS = 4, 3.0, [3, 4]
NOISE = rs.noise.normal(SEEDS, 0, (families.CHANNELS, families.SIDE, families.SIDE))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def by_the_pipeline(found: families.Case, row: int, w: float = W, output: str = "latent") -> torch.Tensor:
    """What the pipeline's own loop draws for one prompt alone."""
    guide = found.guide(w) if w != 1 else {n: v for n, v in found.guide(w).items() if n != "negative_prompt"}
    latents = found.pack(NOISE[row : row + 1])
    asked = dict(num_inference_steps=STEPS, latents=latents, output_type=output)
    images = found.pipe(prompt=PROMPTS[row], **found.size, **asked, **guide, **found.call).images
    return found.unpack(images) if output == "latent" else images


def own_plan(found: families.Case, w: float = W) -> rs.Plan:
    """Euler on the levels that the pipeline's scheduler had in its last run."""
    known = found.pipe.scheduler
    flow = isinstance(known, diffusers.FlowMatchEulerDiscreteScheduler)
    levels = [float(level) for level in known.sigmas[:-1]]
    if isinstance(found.pipe, diffusers.CogView4Pipeline):  # told timesteps before the shift: these to the last bit
        s = 0.75 * (16 / 256) ** 0.5 + 0.25
        levels = [s * v / (1 + (s - 1) * v) for v in (float(t) / 1000 for t in known.timesteps)]
        assert levels == pytest.approx(known.sigmas[:-1].tolist(), rel=1e-6)
    return rs.Plan.build(
        sigmas=levels, solver="euler", schedule="flow" if flow else "edm", **({} if w == 1 else {"guidance_scale": w})
    )


def without_rescaling(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen-Image scales what guidance gives by two norms; with both of them 1 its loop is guidance alone."""
    if name == "qwen_image":
        monkeypatch.setattr(torch, "norm", lambda x, dim, keepdim: torch.ones_like(x[..., :1]))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_engine_draws_what_the_pipeline_draws(name, monkeypatch):
    """Two prompts of different lengths in one batch, with guidance: each is what the pipeline draws of it alone."""
    found = case(name)
    with monkeypatch.context() as patch:
        without_rescaling(name, patch)
        want = torch.cat([by_the_pipeline(found, row) for row in (0, 1)])
    denoiser = denoiser_of(found.pipe, prompt=PROMPTS, negative_prompt=NEGATIVE, **found.told)
    got = rs.Sampler(denoiser, own_plan(found), 2).run(SEEDS, [0, 1], latents=NOISE)
    assert close(got, want)
    other = rs.Sampler(denoiser, own_plan(found), 2).run(SEEDS, [1, 0], latents=NOISE)
    assert not close(other[0], want[0], 1e-4) and not close(other[1], want[1], 1e-4)  # the prompt matters


@pytest.mark.parametrize("name", FAMILIES)
def test_without_guidance(name):
    """Here Qwen-Image's loop is as it is."""
    found = case(name)
    want = by_the_pipeline(found, 1, w=1.0)
    denoiser = denoiser_of(found.pipe, prompt=PROMPTS[1], guided=False, **found.told)
    assert close(rs.Sampler(denoiser, own_plan(found, 1.0), 1).run(SEEDS[1:], latents=NOISE[1:]), want)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_in_a_batch_is_that_prompt_alone(name):
    """Its embeddings to the bit, and what is drawn to rounding; other prompts need no new capture."""
    found = case(name)
    both = denoiser_of(found.pipe, prompt=PROMPTS, negative_prompt=NEGATIVE, **found.told)
    plan = rs.Plan.build(**both.info["levels"](STEPS), solver="euler")
    alone = [denoiser_of(found.pipe, prompt=text, negative_prompt=NEGATIVE, **found.told) for text in PROMPTS]
    for row, denoiser in enumerate(alone):
        for text in network.network_of(found.pipe)[1].text:
            assert torch.equal(denoiser.conditions[text].default[0], both.conditions[text].default[row])
            assert torch.equal(denoiser.conditions[text].null, both.conditions[text].null)
    want = torch.cat([rs.Sampler(alone[row], plan, 2).run(SEEDS[row : row + 1]) for row in (0, 1)])
    assert close(rs.Sampler(both, plan, 2).run(SEEDS, [0, 1]), want)
    sampler, capture = rs.Sampler(alone[0], plan, 2), TapeCapture()
    with_graph(sampler, "loop", capture)
    sampler.run(SEEDS)
    recorded = len(capture.recorded)
    given = prompt_conditions(found.pipe, PROMPTS, found.length)
    assert close(sampler.run(SEEDS, conditions=given), want) and sampler.executor.note == ""
    assert recorded > 0 and len(capture.recorded) == recorded


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_truncated_is_what_changes_nothing(name):
    """From the length on that the denoiser says is too long, another word changes no embedding; before it, it does."""
    found = case(name)
    den = denoiser_of(found.pipe, prompt="a fox", **found.told)
    most = found.length or inspect.signature(type(found.pipe).__call__).parameters["max_sequence_length"].default
    encoded = {n: den.encode("hill " * n)["prompt_embeds"] for n in range(most - 32, most + 3)}
    first = next(n for n in range(most - 31, most + 3) if torch.equal(encoded[n], encoded[n - 1]))
    assert not den.truncation("hill " * (first - 1))
    assert re.fullmatch(rf"has \d+ tokens, and the encoder reads {most:,}", den.truncation("hill " * first))
    assert f"has {most + 1:,} tokens" in den.truncation("hill " * first)
    assert f"has {most + 9:,} tokens" in den.truncation("hill " * (first + 8))
    assert not den.truncation("a fox")


def test_encoders_are_moved_without_the_network_or_not_at_all(monkeypatch):
    pipe = families.pixart_sigma().pipe
    encode = denoiser_of(pipe, prompt="a fox", height=16, width=16).encode
    second = torch.nn.Linear(2, 2)
    pipe.text_encoder_2 = second

    asked = []

    def full(device):
        asked.append(device.type)
        if device.type == "meta":
            raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(pipe.text_encoder, "to", lambda device: asked.append(device.type))
        patch.setattr(second, "to", full)
        assert encode.to(torch.device("meta")) is False
    assert asked == ["meta", "meta", "cpu", "cpu"]
    assert encode("a fox")["prompt_embeds"].device.type == "cpu"
    assert encode.to(torch.device("meta")) is True
    assert (pipe.text_encoder.device.type, second.weight.device.type) == ("meta", "meta")
    assert pipe.transformer.device.type == "cpu"
    assert conditioning.encoders_device(pipe).type == "meta"
    pipe.text_encoder_2 = moved_by_accelerate = torch.nn.Linear(2, 2)
    moved_by_accelerate._hf_hook = object()
    assert encode.to(torch.device("meta")) is True
    assert moved_by_accelerate.weight.device.type == "cpu"


def test_a_prompt_is_truncated_where_no_encoder_reads_it_whole(monkeypatch):
    """CLIP beside T5 reads less, and cuts nothing that T5 does not; an encoder that is not there reads nothing."""

    class Words:
        def __init__(self, most):
            self.model_max_length = most

        def __call__(self, text, verbose):
            return SimpleNamespace(input_ids=[0, *text.split(), 1])

    class CLIPWords(Words):
        pass

    class Pipe:
        tokenizer, text_encoder = CLIPWords(20), object()
        tokenizer_2, text_encoder_2 = Words(1000), object()

        def encode_prompt(self, prompt, max_sequence_length=None):
            pass

        def __call__(self, prompt=None, max_sequence_length=50):
            pass

    monkeypatch.setattr(conditioning, "network_of", lambda pipe: (None, network.PipelineNetwork))
    pipe = Pipe()
    assert not conditioning.truncation(pipe, "word " * 48)
    assert conditioning.truncation(pipe, "word " * 49) == "has 51 tokens, and the encoder reads 50"
    assert conditioning.truncation(pipe, "word " * 49, 40) == "has 51 tokens, and the encoder reads 40"
    pipe.text_encoder_2 = None
    assert not conditioning.truncation(pipe, "word " * 18)
    assert conditioning.truncation(pipe, "word " * 19) == "has 21 tokens, and the encoder reads 20"
    pipe.text_encoder = None
    assert not conditioning.truncation(pipe, "word " * 19)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_is_one_graph(name):
    """torch.compile finds no break and nothing that the host reads, as it must on a GPU."""
    found = case(name)
    eager = denoiser_of(found.pipe, prompt=PROMPTS, negative_prompt=NEGATIVE, **found.told)
    compiled = replace(eager, network=torch.compile(eager.network, fullgraph=True, dynamic=False, backend="eager"))
    level = torch.full((2,), 0.6)
    for rows in ([0, 1], [1, 0]):
        labels = torch.eye(2)[rows]
        with torch.no_grad():
            assert close(compiled(NOISE, level, labels), eager(NOISE, level, labels))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_folder_is_the_pipeline(name, tmp_path):
    """The same samples, and the images that the pipeline's own decoder makes of them."""
    found = case(name)
    found.pipe.save_pretrained(tmp_path)
    options = dict(prompt=PROMPTS[0], negative_prompt=NEGATIVE, **found.told)
    mine, theirs = rs.load(tmp_path, **options), denoiser_of(found.pipe, **options)
    plan = rs.Plan.build(**theirs.info["levels"](3))
    latents = rs.sample(theirs, plan, SEEDS)
    assert torch.equal(rs.sample(mine, plan, SEEDS), latents)
    assert mine.info["vae"] == str(tmp_path) and mine.info["told"]["negative_prompt"] == NEGATIVE
    images = rs.sample(mine, plan, SEEDS, decode=tmp_path)
    assert (images - decoded(found.pipe, latents)).abs().max() <= 1e-6 and images.shape[:2] == (2, 3)


@pytest.mark.parametrize("name", ["sana", "qwen_image", "lumina2"])
def test_latents_are_decoded_as_the_pipeline_does(name):
    found = case(name)
    latents = by_the_pipeline(found, 0, w=1.0)
    want = by_the_pipeline(found, 0, w=1.0, output="pt")
    assert (decoded(found.pipe, latents) - want).abs().max() <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("steps", [4, 11])
def test_the_levels_are_those_of_the_pipelines_scheduler(name, steps):
    found = case(name)
    denoiser = denoiser_of(found.pipe, prompt="a fox", **found.told)
    options = denoiser.info["levels"](steps)
    default = {"pixart_sigma": 4.5, "pixart_alpha": 4.5, "sana": 4.5, "auraflow": 3.5, "cogview4": 5.0}
    default |= {"lumina2": 4.0, "qwen_image": 4.0, "z_image": 6.0}
    assert options["guidance_scale"] == default[name]
    grid = rs.Plan.build(**options).grid
    if name.startswith("pixart"):  # the Karras grid between the ends
        known = found.pipe.scheduler
        ends = (((1 - known.alphas_cumprod) / known.alphas_cumprod) ** 0.5)[[-1, 0]]
        assert (grid[0], grid[-2]) == pytest.approx(ends.tolist(), rel=1e-3)  # its products are float32
        return
    guide = {n: v for n, v in found.guide(1.0).items() if n != "negative_prompt"}
    asked = dict(num_inference_steps=steps, output_type="latent", **found.size, **guide, **found.call)
    found.pipe(prompt="a fox", **asked)
    # CogView4 cuts its timesteps down to whole numbers
    tolerance = {"abs": 1e-3} if name == "cogview4" else {"rel": 1e-5}
    assert grid[:-1] == pytest.approx(found.pipe.scheduler.sigmas[:-1].double().numpy(), **tolerance)


@pytest.mark.parametrize("name", ["cogview4", "qwen_image", "z_image"])
def test_padding_has_no_part(name):
    """The same prompts in twice the length, and as embeddings of their own lengths."""
    found = case(name)
    told = dict(prompt=PROMPTS[0], negative_prompt=NEGATIVE, **found.size)
    short, long = (denoiser_of(found.pipe, max_sequence_length=n, **told) for n in (32, 96))
    plan = rs.Plan.build(**short.info["levels"](3))
    shapes = [denoiser.conditions["prompt_embeds"].shape[0] for denoiser in (short, long)]
    assert shapes == [32, 96]
    want = rs.sample(short, plan, SEEDS)
    assert close(rs.sample(long, plan, SEEDS), want)
    rows = {}
    for sign, value in (("", short.conditions["prompt_embeds"].default[0]), ("negative_", None)):
        mask = short.conditions["prompt_embeds_mask"]
        value = short.conditions["prompt_embeds"].null if value is None else value
        real = (mask.null if sign else mask.default[0]).bool()
        assert 0 < int(real.sum()) < 32
        rows[f"{sign}prompt_embeds"] = [value[real]]
    by_rows = denoiser_of(found.pipe, **rows, **found.size)
    assert close(rs.sample(by_rows, plan, SEEDS), want)


def test_prompts_that_do_not_fit_are_refused():
    found = case("qwen_image")
    embeds = {"prompt_embeds": torch.zeros(1, 9, 16), "negative_prompt_embeds": torch.zeros(1, 4, 16)}
    with pytest.raises(ConfigError, match="a prompt has 9 tokens, and max_sequence_length is 8; raise it"):
        denoiser_of(found.pipe, **embeds, max_sequence_length=8, **found.size)
    with pytest.raises(ConfigError, match="prompt_embeds_mask must have a number for each of the 9 tokens, got 3"):
        denoiser_of(found.pipe, **embeds, prompt_embeds_mask=torch.ones(1, 3), **found.size)
    with pytest.raises(ConfigError, match=r"prompt_embeds must have 3 dimensions, .* or be a list of \[s, D\]"):
        denoiser_of(found.pipe, prompt_embeds=torch.zeros(9, 16), **found.size)
    with pytest.raises(ConfigError, match="prompt must be a text or a list of texts, got 7"):
        denoiser_of(found.pipe, prompt=7, **found.size)
    with pytest.raises(ConfigError, match="height must be a multiple of 4, got 18"):
        denoiser_of(found.pipe, prompt="a fox", height=18)
    lumina = case("lumina2")
    with pytest.raises(BackendError, match="positions for 79 tokens, and prompts have 128"):
        denoiser_of(lumina.pipe, prompt="a fox", max_sequence_length=128, **lumina.size)
    with pytest.raises(BackendError, match="positions for 8 × 8 patches, and the image has 9 × 4"):
        denoiser_of(lumina.pipe, prompt="a fox", max_sequence_length=16, height=144, width=64)


@pytest.mark.parametrize(
    "name, key, message",
    [
        ("sana", "guidance_embeds", r"a Sana network that is told its guidance \(Sprint\) does not run here"),
        ("qwen_image", "guidance_embeds", "a Qwen-Image network that is told its guidance does not run here"),
        ("qwen_image", "zero_cond_t", "a Qwen-Image network that edits images does not run here"),
        ("qwen_image", "use_layer3d_rope", "a Qwen-Image network that draws layers does not run here"),
    ],
)
def test_networks_that_are_told_more_are_refused(name, key, message):
    found = FAMILIES[name]()
    found.pipe.transformer.register_to_config(**{key: True})
    with pytest.raises(BackendError, match=message):
        denoiser_of(found.pipe, prompt="a fox", **found.told)


def test_a_network_that_cannot_be_static_is_refused_with_the_reason():
    class HiDreamImageTransformer2DModel(torch.nn.Module):
        pass

    pipe = type("HiDreamImagePipeline", (), {"transformer": HiDreamImageTransformer2DModel()})()
    with pytest.raises(BackendError, match="does not run here: its mixture of experts reads on the host"):
        denoiser_of(pipe, prompt="a fox")
    for refused in network.REFUSED:
        assert hasattr(diffusers, refused), refused


def test_draw_takes_the_pipelines_guidance_scale():
    """Z-Image's is w − 1."""
    found = case("z_image")
    texts = dict(negative_prompt=NEGATIVE, decode=False, **found.told)
    plain = rs.Plan.build(**{**denoiser_of(found.pipe, prompt="", **found.told).info["levels"](3), "guidance_scale": 1})
    guided = rs.Plan.build(**{**plain.config.to_dict(), "guidance_scale": 3.0})
    a = draw(found.pipe, PROMPTS, plan=plain, seeds=SEEDS, guidance_scale=2.0, **texts)
    b = draw(found.pipe, PROMPTS, plan=guided, seeds=SEEDS, **texts)
    assert torch.equal(a, b) and not torch.equal(a, draw(found.pipe, PROMPTS, plan=plain, seeds=SEEDS, **texts))


def test_half_precision_keeps_angles():
    """CogView4 turns its patches by angles in float32, whatever the precision of the network."""
    found = case("cogview4")
    denoiser = denoiser_of(found.pipe, prompt=PROMPTS[0], negative_prompt=NEGATIVE, **found.told)
    plan = rs.Plan.build(**denoiser.info["levels"](3))
    sampler = rs.Sampler(denoiser, plan, 2, dtype="bf16")
    assert sampler.network.module.angles.cos.dtype == torch.float32
    want = rs.Sampler(denoiser, plan, 2).run(SEEDS)
    assert close(sampler.run(SEEDS), want, 0.2) and not torch.equal(sampler.run(SEEDS), want)


def test_the_pipelines_network_stays_as_it_is():
    """CogView4's attention has another processor here; the pipeline keeps its own, and its weights are shared."""
    found = case("cogview4")
    net = found.pipe.transformer
    before = [type(block.attn1.processor).__name__ for block in net.transformer_blocks]
    denoiser = denoiser_of(found.pipe, prompt="a fox", **found.told)
    assert [type(block.attn1.processor).__name__ for block in net.transformer_blocks] == before
    own = {tensor.data_ptr() for tensor in net.parameters()}
    assert {tensor.data_ptr() for tensor in denoiser.network.net.parameters()} == own


NEW = """
from restart_sampling.integrations.diffusers.network import PipelineNetwork

class Mine(PipelineNetwork):
    runs = "MyTransformer2DModel"

    def forward(self, net_in, c_noise, class_labels=None):
        return self.net(net_in)

NETWORK = Mine
"""


def test_a_new_file_is_a_new_family(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(NEW)
    monkeypatch.setattr(network.networks, "__path__", [*network.networks.__path__, str(tmp_path)])
    network.known.cache_clear()
    try:
        assert network.known()["MyTransformer2DModel"].__name__ == "Mine"
        (tmp_path / "again.py").write_text(NEW)
        network.known.cache_clear()
        with pytest.raises(ConfigError, match=r"networks/mine.py: two families run a MyTransformer2DModel"):
            network.known()
    finally:
        network.known.cache_clear()
