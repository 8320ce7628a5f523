"""The nodes against a stub of ComfyUI's registration: KSAMPLER and what its `sample` does with a sampler function."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from support import problems

from restart_sampling.common.errors import BackendError, ConfigError
from restart_sampling.integrations import comfy as comfyui
from restart_sampling.integrations.k_diffusion import RestartWarning, restart_plan, sample_restart, steps
from restart_sampling.plan.schedule import karras

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
        inner_model = types.SimpleNamespace(
            model_patcher=patcher, inner_model=types.SimpleNamespace(model_sampling=sampling)
        )

        def __init__(self):
            self.calls = []

        def __call__(self, x, sigma, denoise_mask=None, model_options=None, seed=None):
            self.calls.append(float(sigma[0]))
            return D(x, sigma)

    return Model()


class Masked:
    """What ComfyUI puts between sampler and model: outside the mask the model sees and gives the latent image."""

    def __init__(self, model, noise, latent_image):
        self.model, self.inner_model, self.noise, self.image = model, model.inner_model, noise, latent_image

    def __call__(self, x, sigma, denoise_mask, model_options=None, seed=None):
        if denoise_mask is None:
            return self.model(x, sigma, seed=seed)
        known = self.image + sigma.view(-1, 1, 1, 1) * self.noise
        D = self.model(x * denoise_mask + known * (1 - denoise_mask), sigma, seed=seed)
        return D * denoise_mask + self.image * (1 - denoise_mask)


class KSAMPLER:
    """comfy.samplers.KSAMPLER as far as a sampler function sees it: state from noise, masks, k_callback, options as
    keywords.
    """

    def __init__(self, sampler_function, extra_options=None, inpaint_options=None):
        self.sampler_function, self.extra_options = sampler_function, extra_options or {}

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=True
    ):
        extra_args["denoise_mask"] = denoise_mask
        image = torch.zeros_like(noise) if latent_image is None else latent_image
        flow = isinstance(model_wrap.inner_model.inner_model.model_sampling, CONST)
        x = noise * sigmas[0] + ((1 - sigmas[0]) * image if flow else image)
        total = len(sigmas) - 1
        told = lambda info: callback(info["i"], info["denoised"], info["x"], total)  # noqa: E731
        return self.sampler_function(
            Masked(model_wrap, noise, image),
            x,
            sigmas,
            extra_args=extra_args,
            callback=told,
            disable=disable_pbar,
            **self.extra_options,
        )


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
    """Through ComfyUI's own path: the image of `sample_restart` with the seeds of the rows; the bar, the previews."""
    node = comfyui.RestartSamplerNode()
    (sampler,) = node.get_sampler(**defaults(node) | {"restart": restart})
    model, bar, noise = guider(EPS()), [], torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = sampler.sample(model, SIGMAS, {"model_options": {}, "seed": 99}, lambda *told: bar.append(told), noise)
    want = sample_restart(
        lambda x, s: D(x, s), noise * SIGMAS[0], SIGMAS, restart=restart, s_noise=1.01, seeds=[99, 100], disable=True
    )
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


@pytest.mark.parametrize("shift", [1.32, 1.4, 3.0])
def test_every_shift_of_a_flow_model_runs(comfy, shift):
    """ModelSamplingDiscreteFlow computes its levels in float32; shift 1.32 gives 1.0000001 for the first."""
    t = torch.linspace(1, 0, 13)
    levels = shift * t / (1 + (shift - 1) * t)
    node = comfyui.RestartSamplerNode()
    (sampler,) = node.get_sampler(**defaults(node) | {"restart": "[3, 2, 0.3, 0.6]"})
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    model = guider(Flux(), lambda x, s: 0.5 * x)
    assert sampler.sample(model, levels, {"seed": 3}, lambda *told: None, noise).isfinite().all()
    assert len(model.calls) <= 23


def test_inpainting_keeps_what_is_outside_the_mask(comfy):
    node = comfyui.RestartSamplerNode()
    (sampler,) = node.get_sampler(**defaults(node) | {"restart": "[3, 2, 0.3, 1.0]"})
    image = torch.linspace(-1, 1, 2 * 64).view(2, *SHAPE)
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 4, 4)
    mask[..., :2] = 1
    run = lambda mask: sampler.sample(  # noqa: E731
        guider(EPS()), SIGMAS, {"seed": 5}, lambda *told: None, noise, image, mask
    )
    found = run(mask)
    torch.testing.assert_close(found[..., 2:], image[..., 2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[..., :2], run(torch.ones(2, 1, 4, 4))[..., :2], rtol=0, atol=1e-5)


def test_image_to_image(comfy):
    """Denoise below 1: the last sigmas, and the state begins at the image."""
    node, sigmas = comfyui.RestartSamplerNode(), SIGMAS[10:]
    (sampler,) = node.get_sampler(**defaults(node) | {"restart": "[3, 1, 0.1, 0.4], [3, 1, 2, 5]"})
    image, noise, bar = torch.full((1, *SHAPE), 0.3), torch.zeros(1, *SHAPE), []
    with pytest.warns(RestartWarning, match=r"\[3, 1, 2, 5\]: does not run"):
        model = guider(EPS())
        sampler.sample(model, sigmas, {"seed": 5}, lambda *told: bar.append(told), noise, image)
    torch.testing.assert_close(bar[0][2], image, rtol=0, atol=0)
    assert len(model.calls) <= 2 * (len(sigmas) - 1) - 1 and len(bar) <= len(sigmas) - 1


def test_an_interrupt_leaves_nothing_behind(comfy):
    class InterruptProcessingException(Exception):
        pass

    def stop(i, *told):
        if i == 4:
            raise InterruptProcessingException

    node = comfyui.RestartSamplerNode()
    (sampler,) = node.get_sampler(**defaults(node))
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    run = lambda callback: sampler.sample(guider(EPS()), SIGMAS, {"seed": 5}, callback, noise)  # noqa: E731
    want = run(lambda *told: None)
    with pytest.raises(InterruptProcessingException):
        run(stop)
    assert torch.equal(run(lambda *told: None), want)


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
    assert validate("none", "unipc", "order=2, variant=bh1") is validate("none", "unipc", "") is True
    assert "must be 1, 2 or 3" in validate("none", "unipc", "order=7")
    assert "has no option 'oder'" in validate("none", "unipc", "oder=2")
    assert "name:option=value" in validate("none", "unipc", "2")
    with pytest.raises(ConfigError, match="must not ascend"):
        node = comfyui.RestartPlanNode()
        node.explain(SIGMAS.flip(0), **defaults(node))


def test_options_and_eta_of_the_node_run(comfy):
    (sampler,) = comfyui.RestartSamplerNode().get_sampler("none", "dpm++2m-sde", 1.0, "steps", 0.5, "variant=heun")
    model, noise = guider(EPS()), torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = sampler.sample(model, SIGMAS, {"seed": 4}, lambda *_: None, noise)
    options = dict(restart=None, solver="dpmpp_2m_sde_heun", eta=0.5, s_noise=1.01, seeds=[4], disable=True)
    torch.testing.assert_close(found, sample_restart(D, noise * SIGMAS[0], SIGMAS, **options), rtol=0, atol=0)
    text = comfyui.RestartPlanNode().explain(SIGMAS, "none", "unipc", 1.0, "steps", solver_options="order=2")["result"]
    assert text == (restart_plan(SIGMAS, None, solver="unipc:order=2").explain(), 20)


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
        lambda x, s: D(x, s),
        noise * SIGMAS[0],
        SIGMAS,
        restart="[3, 2, 0.3, 1.0]",
        s_noise=1.01,
        seeds=[5, 6],
        disable=True,
    )
    assert torch.equal(found, want)


def test_a_sampler_of_comfyui_is_not_replaced(comfy):
    functions = sys.modules["comfy.k_diffusion.sampling"]
    functions.sample_heun = own = lambda *args, **kwargs: None
    with pytest.raises(BackendError, match="ComfyUI has a sampler 'heun' already; choose another name"):
        comfyui.register("heun")
    assert functions.sample_heun is own


def test_a_comfyui_without_lists_is_refused(comfy):
    for name in ("KSAMPLER_NAMES", "SAMPLER_NAMES", "KSampler"):
        delattr(comfy, name)
    with pytest.raises(BackendError, match="has no list of samplers"):
        comfyui.register()
