"""The nodes against a stub of ComfyUI's registration: KSAMPLER and what its `sample` does with a sampler function."""

from __future__ import annotations

import sys
import types

import numpy as np
import problems
import pytest
import torch

from restart_sampling.errors import BackendError, ConfigError
from restart_sampling.integrations import comfy as comfyui
from restart_sampling.integrations.k_diffusion import restart_plan, sample_restart, steps
from restart_sampling.schedule import karras

SIGMAS = torch.tensor([*karras(20, 0.0292, 14.6146, 7.0), 0.0], dtype=torch.float32)
SHAPE = (4, 4, 4)
D = problems.gaussian()


class CONST:
    """As ComfyUI names the model_sampling of flow models."""


class Flux(CONST):
    noise_scale = 1.0


class EPS:
    noise_scale = 1.01


def guider(sampling, D=D):
    """What a sampler function gets as `model`: KSamplerX0Inpaint around a CFGGuider around the model."""
    patcher = types.SimpleNamespace(get_model_object=lambda name: {"model_sampling": sampling}[name])

    class Model:
        inner_model = types.SimpleNamespace(model_patcher=patcher, inner_model=types.SimpleNamespace())

        def __init__(self):
            self.calls = []

        def __call__(self, x, sigma, denoise_mask=None, model_options=None, seed=None):
            self.calls.append(float(sigma[0]))
            return D(x, sigma)

    return Model()


class KSAMPLER:
    """The part of comfy.samplers.KSAMPLER that is documented: state from noise, k_callback, options as keywords."""

    def __init__(self, sampler_function, extra_options=None, inpaint_options=None):
        self.sampler_function, self.extra_options = sampler_function, extra_options or {}

    def sample(self, model, sigmas, extra_args, callback, noise, disable_pbar=True):
        extra_args = {**extra_args, "denoise_mask": None}
        total = len(sigmas) - 1
        told = lambda info: callback(info["i"], info["denoised"], info["x"], total)  # noqa: E731
        return self.sampler_function(
            model, noise * sigmas[0], sigmas, extra_args=extra_args, callback=told, disable=disable_pbar, **self.extra_options
        )  # fmt: skip


@pytest.fixture
def comfy(monkeypatch):
    """ComfyUI's modules, as far as anything here touches them."""
    names = ("comfy", "comfy.samplers", "comfy.k_diffusion", "comfy.k_diffusion.sampling")
    found = {name: types.ModuleType(name) for name in names}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(found[parent], child, module)
    samplers = found["comfy.samplers"]
    samplers.KSAMPLER = KSAMPLER
    samplers.KSAMPLER_NAMES = ["euler", "heun"]
    samplers.SAMPLER_NAMES = [*samplers.KSAMPLER_NAMES, "uni_pc"]
    samplers.KSampler = type("KSampler", (), {"SAMPLERS": samplers.SAMPLER_NAMES})
    return samplers


def defaults(node):
    """The values that ComfyUI fills in for a node nobody touched."""
    chosen = {}
    for name, (kind, *rest) in node.INPUT_TYPES()["required"].items():
        options = rest[0] if rest else {}
        if kind != "SIGMAS":
            chosen[name] = options.get("default", kind[0] if isinstance(kind, list) else None)
    return chosen


def test_the_mappings_are_what_comfyui_reads():
    for name, node in comfyui.NODE_CLASS_MAPPINGS.items():
        assert name in comfyui.NODE_DISPLAY_NAME_MAPPINGS
        assert callable(getattr(node, node.FUNCTION)) and node.CATEGORY.startswith("sampling/")
        for kind, *rest in node.INPUT_TYPES()["required"].values():
            assert isinstance(kind, (str, list)) and all(isinstance(options, dict) for options in rest)
    assert comfyui.NODE_CLASS_MAPPINGS["RestartSampler"].RETURN_TYPES == ("SAMPLER",)


@pytest.mark.parametrize("restart", ["default", "[3, 2, 0.3, 1.0]", "a1111"])
def test_a_run_of_the_node(comfy, restart):
    """Through ComfyUI's own path: the image of `sample_restart` with the seeds of the rows; the bar and the previews."""
    node = comfyui.RestartSamplerNode()
    (sampler,) = node.get_sampler(**defaults(node) | {"restart": restart})
    model, bar, noise = guider(EPS()), [], torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = sampler.sample(
        model, SIGMAS, {"model_options": {}, "seed": 99}, lambda *told: bar.append(told), noise
    )
    want = sample_restart(
        lambda x, s: D(x, s), noise * SIGMAS[0], SIGMAS, restart=restart, s_noise=1.01, seeds=[99, 100],
        disable=True,
    )  # fmt: skip
    assert torch.equal(found, want)
    assert len(model.calls) == restart_plan(SIGMAS, restart).nfe <= 39
    assert [i for i, *_ in bar] == list(range(steps(SIGMAS, restart)))
    assert {total for *_, total in bar} == {20} and len(bar) <= 20
    assert all(denoised.shape == x.shape == noise.shape for _, denoised, x, _ in bar)


def test_flow_models_walk_flow_levels(comfy):
    """SD3 and Flux: levels t in (0, 1], the jump has the law of a flow state."""
    t = torch.tensor([*np.linspace(1, 0.05, 12), 0.0], dtype=torch.float32)

    def flow(x, s):
        s = s.view(-1, 1, 1, 1)
        return 0.25 * (1 - s) / (0.25 * (1 - s) ** 2 + s * s) * x

    node = comfyui.RestartSamplerNode()
    (sampler,) = node.get_sampler(**defaults(node) | {"restart": "[3, 2, 0.3, 0.6]"})
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = sampler.sample(guider(Flux(), flow), t, {"seed": 3}, lambda *told: None, noise)
    options = dict(restart="[3, 2, 0.3, 0.6]", seeds=[3, 4], disable=True)
    assert torch.equal(found, sample_restart(flow, noise, t, process="flow", **options))
    assert not torch.equal(found, sample_restart(flow, noise, t, **options))


def test_models_that_say_nothing_are_variance_exploding():
    assert comfyui.sampler.process_of(comfyui.sampler.model_sampling(lambda x, s: x)) == "ve"
    old = types.SimpleNamespace(
        inner_model=types.SimpleNamespace(inner_model=types.SimpleNamespace(model_sampling=Flux()))
    )
    assert comfyui.sampler.process_of(comfyui.sampler.model_sampling(old)) == "flow"


def test_the_plan_node_shows_what_runs():
    node = comfyui.RestartPlanNode()
    shown = node.explain(SIGMAS, **defaults(node))
    text, calls = shown["result"]
    assert shown["ui"] == {"text": [text]}
    assert calls == restart_plan(SIGMAS, "default").nfe
    assert f"{calls} NFE" in text and "Restart intervals" in text
    assert node.explain(SIGMAS[-1:], **defaults(node))["result"] == ("there is no step to make", 0)


def test_mistakes_are_told_at_the_node():
    validate = comfyui.RestartSamplerNode.VALIDATE_INPUTS
    assert validate("default") is validate("[3, 2, 0.3, 1]") is True
    assert "N, K, t_min, t_max" in validate("[3, 2, 0.3]")
    with pytest.raises(ConfigError, match="must not ascend"):
        node = comfyui.RestartPlanNode()
        node.explain(SIGMAS.flip(0), **defaults(node))


def test_without_comfyui_one_sentence():
    node = comfyui.RestartSamplerNode()
    with pytest.raises(BackendError, match="ComfyUI is not here"):
        node.get_sampler(**defaults(node))
    with pytest.raises(BackendError, match="ComfyUI is not here; call register"):
        comfyui.register()


def test_registration_happens_once(comfy):
    functions = sys.modules["comfy.k_diffusion.sampling"]
    assert comfyui.register("restart", restart="[3, 2, 0.3, 1.0]") is True
    assert comfyui.register("restart", restart="[3, 2, 0.3, 1.0]") is False
    assert comfy.KSAMPLER_NAMES.count("restart") == comfy.SAMPLER_NAMES.count("restart") == 1
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    sampler = KSAMPLER(functions.sample_restart)
    found = sampler.sample(guider(EPS()), SIGMAS, {"seed": 5}, lambda *told: None, noise)
    want = sample_restart(
        lambda x, s: D(x, s), noise * SIGMAS[0], SIGMAS, restart="[3, 2, 0.3, 1.0]", s_noise=1.01, seeds=[5, 6],
        disable=True,
    )  # fmt: skip
    assert torch.equal(found, want)


def test_a_comfyui_without_lists_is_refused(comfy):
    for name in ("KSAMPLER_NAMES", "SAMPLER_NAMES", "KSampler"):
        delattr(comfy, name)
    with pytest.raises(BackendError, match="has no list of samplers"):
        comfyui.register()
