"""Text to image: scorers with tiny networks against their formulas, the study's cells, what is stored, bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import restart_sampling as rs
from restart_sampling.common.errors import CheckpointError, RestartTypeError, RestartValueError
from restart_sampling.experiments.measure import text_to_image
from restart_sampling.experiments.measure.distances import Stats
from restart_sampling.experiments.measure.evaluator import Evaluator
from restart_sampling.experiments.measure.features import Features
from restart_sampling.experiments.measure.rows import read
from restart_sampling.experiments.measure.samplers import work
from restart_sampling.experiments.measure.scorers.base import Scorer
from restart_sampling.experiments.measure.scorers.registry import scored, scorer

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = [f"a {colour} square" for colour in ("red", "green", "blue", "grey", "pale blue")]


def told(text):
    value = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1)}
    return {"colour": torch.tensor(next((rgb for word, rgb in value.items() if word in text), (0, 0, 0))).float()}


def denoiser():
    def network(x, sigma, colour):
        c = (sigma**2 / (0.05 + sigma**2)).view(-1, 1, 1, 1)
        return (1 - c) * x + c * colour.view(-1, 3, 1, 1)

    made = rs.Denoiser.from_function(network, (3, 32, 32), conditions={"colour": rs.Condition((3,), null=0.0)})
    return replace(made, encode=told)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP network of random weights with a tokenizer of letters, saved as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    config = transformers.CLIPConfig(
        text_config={**text, "vocab_size": len(words), "max_position_embeddings": 16, **ends},
        vision_config={**text, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPModel(config).save_pretrained(folder / "model")
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(folder / "model")
    return folder / "model"


def images(n=4):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8))


def test_clip_score_is_the_cosine_of_the_two_embeddings(clip):
    """Against the network's own towers, one pair at a time; texts that are too long are cut, as encoders cut them."""
    from transformers import CLIPModel, CLIPProcessor

    texts = [*TEXTS[:3], "x" * 60]
    found = scored(scorer(f"clip={clip}"), images(), texts)
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    for k, text in enumerate(texts):
        given = processor(
            text=[text],
            images=[images()[k].permute(1, 2, 0).numpy()],
            return_tensors="pt",
            truncation=True,
            max_length=16,
        )
        with torch.no_grad():
            out = model.double()(**{n: v.double() if v.is_floating_point() else v for n, v in given.items()})
        one, other = out.image_embeds[0], out.text_embeds[0]
        wanted = float((one @ other) / (one.norm() * other.norm()))
        assert float(found[k]) == pytest.approx(wanted, abs=1e-5)
    assert found.std() > 1e-3


def test_aesthetic_score_is_linear_layers_on_the_embedding_at_unit_length(clip, tmp_path):
    torch.manual_seed(1)
    sizes = [(0, 16, 8), (2, 8, 4), (4, 4, 1)]  # numbers of layers with dropout between them
    state = {}
    for k, a, b in sizes:
        state |= {f"layers.{k}.weight": torch.randn(b, a), f"layers.{k}.bias": torch.randn(b)}
    torch.save(state, tmp_path / "layers.pth")
    found = scored(scorer(f"aesthetic={tmp_path / 'layers.pth'},{clip}"), images(), TEXTS[:4])
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    given = processor(text=["x"], images=list(images().permute(0, 2, 3, 1).numpy()), return_tensors="pt")
    with torch.no_grad():
        x = model(input_ids=given["input_ids"], pixel_values=given["pixel_values"]).image_embeds.double()
    for k, _, _ in sizes:
        x = x @ state[f"layers.{k}.weight"].double().T + state[f"layers.{k}.bias"].double()
    assert torch.allclose(found, x[:, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("clip", RestartValueError, r"must be aesthetic=PATH, clip=PATH, FILE.py:NAME"),
        ("clipp=x", RestartValueError, r"scorer 'clipp' is not known; did you mean"),
        ("clip=/nowhere", CheckpointError, r"scorer clip: there is no file or folder /nowhere"),
        ("aesthetic=a", RestartValueError, r"needs the file of its layers and the folder of CLIP ViT-L/14"),
    ],
)
def test_scorers_that_cannot_be_made(text, error, said):
    with pytest.raises(error, match=said):
        scorer(text)


def test_damaged_files_are_named(clip, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"a.pth is no file of weights"):
        scorer(f"aesthetic={tmp_path / 'a.pth'},{clip}")
    torch.save({"layers.0.weight": torch.zeros(1, 5), "layers.0.bias": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"b.pth takes embeddings of 5 numbers, and the CLIP network .* gives 16"):
        scorer(f"aesthetic={tmp_path / 'b.pth'},{clip}")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"folder: transformers cannot load this CLIP network"):
        scorer(f"clip={tmp_path / 'folder'}")


def test_a_scorer_of_the_user_and_what_it_may_give(tmp_path):
    (tmp_path / "mine.py").write_text("def red(images, prompts):\n    return images[:, 0].float().mean((1, 2))\n")
    found = scorer(f"{tmp_path / 'mine.py'}:red")
    assert found.name == "red"
    assert torch.allclose(scored(found, images(), TEXTS[:4]), images()[:, 0].double().mean((1, 2)), atol=1e-3)
    with pytest.raises(RestartTypeError, match="must give 4 numbers, got"):
        scored(Scorer("x", lambda images, prompts: [1.0], {}), images(), TEXTS[:4])
    with pytest.raises(RestartValueError, match="gave NaN"):
        scored(Scorer("x", lambda images, prompts: [float("nan")] * 4, {}), images(), TEXTS[:4])


def colour(images, prompts):
    """How far an image is towards the colour of its prompt, at most 1."""
    wanted = torch.stack([told(prompt)["colour"] for prompt in prompts])
    seen = images.float().mean((2, 3)) / 127.5 - 1
    return (wanted * seen).sum(1) / 3


class Channels(torch.nn.Module):
    def forward(self, images):
        return images.float().mean((2, 3))


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(TEXTS))
    return path


def study(prompts, out, **options):
    evaluator = Evaluator(
        Features(Channels(), "channels", images()[0]), Stats(np.full(3, 128.0), np.eye(3) * 1000, 100), name="made up"
    )
    chosen = {"scorers": [Scorer("colour", colour, {"code": "1"})], "evaluators": [evaluator]} | options
    candidates = work(["heun", "heun+restart"], [27], "ve")
    return text_to_image.measure(denoiser(), "squares", candidates, prompts, [1.0, 2.0], out, **chosen)


def test_every_cell_has_the_same_prompts_and_seeds(prompts, tmp_path):
    rows = study(prompts, tmp_path / "out")
    assert [(row["sampler"], row["guidance_scale"]) for row in rows] == [
        (sampler, scale) for sampler in ("heun", "heun+restart") for scale in (1.0, 2.0)
    ]
    for row in rows:
        assert row["nfe"] <= 27
        assert row["network_calls"] == row["nfe"] * (2 if row["guidance_scale"] > 1 else 1)
        assert row["n"] == row["fd_n"] == 5
        assert row["scorers"] == {"colour": {"code": "1"}}
        # Four of five prompts have a colour, which pixels of variance 0.05 are drawn around and cut off at: without
        # guidance 4/5 of 1 − √0.05/√(2π); with w = 2 they are drawn around twice the colour, and all cut off.
        wanted = 0.8 * (1 - (0.05 / (2 * np.pi)) ** 0.5) if row["guidance_scale"] == 1 else 0.8
        assert row["colour"] == pytest.approx(wanted, abs=0.03)
        assert row["colour_se"] > 0 and np.isfinite(row["fd"])
    folder = tmp_path / "out" / "images" / "heun@27-w2"
    record = json.loads((folder / "run.json").read_text())
    assert record["inputs"]["count"] == 5
    assert len(list((folder / "samples").iterdir())) == 5


def test_a_study_goes_on_and_measures_nothing_twice(prompts, tmp_path, monkeypatch):
    first = study(prompts, tmp_path / "out")
    monkeypatch.setattr(text_to_image, "run_job", None)
    assert study(prompts, tmp_path / "out") == first
    assert len(read(tmp_path / "out" / text_to_image.FILE)) == len(first)
    monkeypatch.undo()
    more = study(prompts, tmp_path / "out", scorers=[Scorer("colour", colour, {"code": "2"})])
    assert [row["fd"] for row in more] == [row["fd"] for row in first]
    assert len(read(tmp_path / "out" / text_to_image.FILE)) == 2 * len(first)


def test_a_choice_of_prompts_is_stored_with_the_result(prompts, tmp_path):
    rows = study(prompts, tmp_path / "out", n=3)
    lines = [json.loads(line) for line in (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()]
    assert [TEXTS[line["line"] - 1] for line in lines] == [line["prompt"] for line in lines]
    assert len(lines) == rows[0]["n"] == 3
    assert [line["line"] for line in lines] == sorted(line["line"] for line in lines)  # as the file has them
    with pytest.raises(RestartValueError, match=r"prompts.jsonl holds other prompts .* choose another folder"):
        study(prompts, tmp_path / "out", n=2)
    with pytest.raises(RestartValueError, match=r"has 5 prompts, and 6 were asked for"):
        study(prompts, tmp_path / "other", n=6)


def test_the_picture(prompts, tmp_path):
    pytest.importorskip("matplotlib")
    from restart_sampling.experiments.report.trade_off import picture

    picture(study(prompts, tmp_path / "out"), tmp_path / "p.png", along="colour")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
