"""Every key of the configs of diffusers' schedulers: honoured, refused or without effect; diffusers' levels are the
oracle.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import diffusers

from restart_sampling.common.errors import RestartError
from restart_sampling.integrations.diffusers import FlowMatchRestartScheduler, RestartScheduler
from restart_sampling.integrations.diffusers.keys import KEYS, KINDS, Honoured, Refused

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
PLAIN = dict(restart=None, solver="euler")
DOCS = Path(__file__).parents[2] / "docs" / "diffusers.md"


def classes() -> dict[str, list[str]]:
    """Scheduler classes of the installed diffusers and the keys of their configs, read from the source.

    Some cannot be imported without further packages, and are still somebody's config.
    """
    found = {}
    for file in sorted((Path(diffusers.__file__).parent / "schedulers").rglob("scheduling_*.py")):
        if "flax" in file.name:
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and "SchedulerMixin" in [
                b.id for b in node.bases if isinstance(b, ast.Name)
            ]:
                inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
                found[node.name] = [a.arg for i in inits for a in (*i.args.args, *i.args.kwonlyargs)][1:]
    return found


def test_no_key_of_an_installed_scheduler_slips_by():
    found = classes()
    assert len(found) >= 40 and "EulerDiscreteScheduler" in found
    unknown = [name for name in found if name not in KINDS]
    assert not unknown, f"classes whose kind of model is not known: {unknown}"
    for name, keys in found.items():
        if KINDS[name] in ("betas", "flow"):
            missing = [key for key in keys if key not in KEYS and key != "s_noise"]
            assert not missing, f"{name} has config keys that nobody has judged: {missing}"


def test_every_honoured_key_is_a_setting_of_its_scheduler_and_in_the_docs():
    import inspect

    text = DOCS.read_text()
    for column, cls in enumerate((RestartScheduler, FlowMatchRestartScheduler)):
        own = inspect.signature(cls.__init__).parameters
        for key, uses in KEYS.items():
            if isinstance(uses[column], Honoured):
                assert key in own, (cls.__name__, key)
                assert f"`{key}`" in text, f"docs/diffusers.md does not name {key}"
            if isinstance(uses[column], Refused):
                assert f"`{key}`" in text, f"docs/diffusers.md does not name {key}"


# Levels of the model


@pytest.mark.parametrize(
    "theirs",
    [
        diffusers.CogVideoXDDIMScheduler(),
        diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.0, beta_schedule="linear"),
        diffusers.CogVideoXDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        diffusers.DDPMScheduler(beta_schedule="sigmoid"),
        diffusers.DDPMScheduler(beta_schedule="laplace"),
        diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=200),
        diffusers.HeunDiscreteScheduler(),
        diffusers.HeunDiscreteScheduler(beta_schedule="exp"),
        diffusers.LCMScheduler(),
        diffusers.DDIMScheduler(trained_betas=np.linspace(0.002, 0.03, 50).tolist(), num_train_timesteps=50),
        diffusers.UnCLIPScheduler(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_the_model_keeps_its_levels(theirs):
    """Defaults too: two of these classes have other default betas than the rest."""
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    a, b = theirs.alphas_cumprod.double().numpy(), ours.alphas_cumprod.double().numpy()
    last = slice(None, -1) if theirs.config.get("rescale_betas_zero_snr") else slice(None)
    assert np.abs(a[last] - b[last]).max() <= 5e-6
    assert b[-1] == 2**-24 or last == slice(None)


def test_add_noise_of_cogvideox():
    theirs = diffusers.CogVideoXDDIMScheduler()
    ours = RestartScheduler.from_config(theirs.config)
    one, zero, t = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.tensor([500])
    got = ours.add_noise(one, zero, t)
    assert torch.allclose(got, theirs.add_noise(one, zero, t), rtol=1e-5)
    assert got.flatten()[0] == pytest.approx(0.3360, abs=1e-4)


def test_a_config_from_a_file_gets_the_defaults_of_its_class():
    """A saved config names its class; a key that it lacks has that class's default."""
    ours = RestartScheduler.from_config({"_class_name": "CogVideoXDDIMScheduler", "clip_sample": False})
    want = diffusers.CogVideoXDDIMScheduler().alphas_cumprod.double().numpy()
    assert np.abs(ours.alphas_cumprod.double().numpy() - want).max() <= 5e-6
    flow = FlowMatchRestartScheduler.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    assert flow.shift == 3.0


# Places of the steps


def levels(scheduler, n, **how) -> np.ndarray:
    scheduler.set_timesteps(n, **how)
    return np.array([float(s) for s in scheduler.sigmas])


@pytest.mark.parametrize("n", [2, 5, 12])
@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"])
def test_grids_are_those_of_dpm_solver(flag, n):
    theirs = diffusers.DPMSolverMultistepScheduler(**SD, **{flag: True})
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    assert np.allclose(levels(ours, n), levels(theirs, n), rtol=2e-5)


@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_ends_of_a_grid_are_those_of_euler(flag):
    theirs = diffusers.EulerDiscreteScheduler(**SD, sigma_min=0.1, sigma_max=9.0, **{flag: True})
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    assert np.allclose(levels(ours, 7), levels(theirs, 7), rtol=2e-5)


@pytest.mark.parametrize("betas", [SD, {}, dict(beta_schedule="squaredcos_cap_v2")], ids=["sd", "linear", "cosine"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_spacing_is_that_of_ddim(spacing, offset, betas):
    theirs = diffusers.DDIMScheduler(**betas, timestep_spacing=spacing, steps_offset=offset)
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    for n in (2, 7, 50):
        theirs.set_timesteps(n)
        ours.set_timesteps(n)
        assert np.allclose(ours.timesteps.tolist(), theirs.timesteps.tolist(), atol=1e-3)


@pytest.mark.parametrize("n", [1, 3, 10])
def test_log_linear_interpolation_is_that_of_euler(n):
    """Euler's own list has one level more, where it ends; a run here goes on to 0 instead."""
    theirs = diffusers.EulerDiscreteScheduler(**SD, interpolation_type="log_linear")
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    assert np.allclose(levels(ours, n)[:-1], levels(theirs, n)[:n], rtol=2e-5)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_lambda_min_clipped_cuts_the_top(spacing):
    theirs = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1, timestep_spacing=spacing
    )
    ours = RestartScheduler.from_config(theirs.config, **PLAIN)
    whole = RestartScheduler.from_config(theirs.config, lambda_min_clipped=None, **PLAIN)
    got, want = levels(ours, 10), levels(theirs, 10)
    assert got[0] <= np.exp(5.1) and (spacing == "leading" or got[0] == pytest.approx(want[0], rel=1e-5))
    assert spacing == "leading" or levels(whole, 10)[0] > np.exp(5.1)


@pytest.mark.parametrize("state, name", [("ve", "EulerDiscreteScheduler"), ("vp", "DPMSolverMultistepScheduler")])
@pytest.mark.parametrize("flag", [{}, dict(use_karras_sigmas=True)], ids=["model", "karras"])
def test_final_sigmas_type_sigma_min(state, name, flag):
    """The run ends at the model's lowest level with its noise: the image of the first order of their solver."""
    first = dict(solver_order=1) if name.startswith("DPM") else {}
    # Euler's Karras levels end at the levels of its timesteps, which are the model's with linspace only
    spacing = dict(timestep_spacing="linspace" if flag else "trailing", final_sigmas_type="sigma_min")
    theirs = getattr(diffusers, name)(**SD, **flag, **first, **spacing)
    ours = RestartScheduler.from_config(theirs.config, state=state, steps_are="main", **spacing, **PLAIN)
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    want = np.unique(theirs.sigmas.numpy())[::-1]
    assert np.allclose(np.array(ours.sigmas), want, rtol=2e-5) and ours.sigmas[-1] > 0.029
    assert len(ours.timesteps) == len(want) - 1
    assert "no step to 0" in ours.plan.explain()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * theirs.init_noise_sigma
    a, b = x, x / theirs.init_noise_sigma * ours.init_noise_sigma
    for t in theirs.timesteps:  # the network says 0.3 of what it is given, at every level
        a = theirs.step(0.3 * theirs.scale_model_input(a, t), t, a).prev_sample
    for t in ours.timesteps:
        b = ours.step(0.3 * ours.scale_model_input(b, t), t, b).prev_sample
    assert (a - b).abs().max() <= 1e-5 * a.abs().max()


def test_final_sigma_of_a_later_run():
    theirs = diffusers.EulerDiscreteScheduler(**SD, final_sigmas_type="sigma_min", timestep_spacing="leading")
    ours = RestartScheduler.from_config(
        theirs.config, state="ve", final_sigmas_type="sigma_min", steps_are="main", **PLAIN
    )
    ours.set_timesteps(10)
    theirs.set_timesteps(10)
    for begin in (0, 4, 9):
        ours.set_begin_index(begin)
        assert np.allclose(ours.sigmas[:2], theirs.sigmas[begin : begin + 2], rtol=2e-5) or begin == 9
        assert float(ours.sigmas[-1]) == pytest.approx(float(theirs.sigmas[-1]), rel=2e-5)


# Flow models


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DEISMultistepScheduler"])
def test_flow_shift_with_use_flow_sigmas(name):
    """Theirs leave out the lowest or highest thousandth of the times before the shift; ours are the same grid but for
    that.
    """
    theirs = getattr(diffusers, name)(use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction")
    ours = FlowMatchRestartScheduler.from_config(theirs.config, solver="euler")
    got = levels(ours, 4)
    assert got[:-1] == pytest.approx([1, 0.9375, 5 / 6, 0.625], rel=1e-6)
    for n in (1, 3, 4, 20):
        a, b = (t / (5 - 4 * t) for t in (levels(s, n)[:n] for s in (ours, theirs)))
        assert np.abs(a - b).max() <= 1e-3 * (1 + 1e-3)


@pytest.mark.parametrize("n", [1, 2, 10, 28])
@pytest.mark.parametrize(
    "theirs",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0, num_train_timesteps=500),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear"),
    ],
    ids=["sd3", "plain", "500", "dynamic", "dynamic linear"],
)
def test_flow_levels_are_those_of_flow_euler(theirs, n):
    ours = FlowMatchRestartScheduler.from_config(theirs.config, solver="euler")
    mu = dict(mu=1.3) if theirs.config.use_dynamic_shifting else {}
    assert np.allclose(levels(ours, n, **mu), levels(theirs, n, **mu), rtol=1e-5, atol=1e-7)
    given = np.linspace(1, 1 / n, n)
    want = np.array(levels(theirs, None, sigmas=given, **mu))
    assert np.allclose(levels(ours, None, sigmas=given, **mu), want, rtol=1e-5)
    uneven = [1.0, 0.7, 0.2]
    assert np.allclose(levels(ours, None, sigmas=uneven, **mu), levels(theirs, None, sigmas=uneven, **mu), rtol=1e-5)


def test_sd3_ends_where_diffusers_does():
    ours = FlowMatchRestartScheduler(shift=3.0, solver="euler")
    assert levels(ours, 10)[-2] == pytest.approx(0.0089, abs=1e-4)


def test_set_shift_is_followed():
    theirs, ours = (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        FlowMatchRestartScheduler(shift=3.0, solver="euler"),
    )
    for s in (theirs, ours):
        s.set_shift(2.0)
    assert np.allclose(levels(ours, 8), levels(theirs, 8), rtol=1e-5)


# Refused


FLOW_CONFIGS = [
    diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    diffusers.FlowMatchHeunDiscreteScheduler(),
    diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    FlowMatchRestartScheduler(shift=3.0),
]


@pytest.mark.parametrize("theirs", FLOW_CONFIGS, ids=lambda s: type(s).__name__)
def test_a_flow_config_is_refused_by_restart_scheduler(theirs, tmp_path):
    with pytest.raises(RestartError, match="flow-matching model; use FlowMatchRestartScheduler"):
        RestartScheduler.from_config(theirs.config)
    theirs.save_pretrained(tmp_path)  # and from a file
    with pytest.raises(RestartError, match="use FlowMatchRestartScheduler"):
        RestartScheduler.from_pretrained(tmp_path)
    assert FlowMatchRestartScheduler.from_pretrained(tmp_path).config.restart is None


@pytest.mark.parametrize(
    "theirs",
    [diffusers.DDIMScheduler(**SD), diffusers.PNDMScheduler(**SD), RestartScheduler(**SD)],
    ids=lambda s: type(s).__name__,
)
def test_a_config_with_betas_is_refused_by_flow(theirs, tmp_path):
    with pytest.raises(RestartError, match="model with DDPM betas; use RestartScheduler"):
        FlowMatchRestartScheduler.from_config(theirs.config)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(RestartError, match="use RestartScheduler"):
        FlowMatchRestartScheduler.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", sorted(n for n, kind in KINDS.items() if kind not in ("betas", "flow")))
@pytest.mark.parametrize("ours", [RestartScheduler, FlowMatchRestartScheduler])
def test_models_of_other_kinds_are_refused(name, ours):
    with pytest.raises(RestartError, match=f"which {ours.__name__} does not drive; make an rs.Denoiser"):
        ours.from_config({"_class_name": name, "num_train_timesteps": 1000})


@pytest.mark.parametrize("ours", [RestartScheduler, FlowMatchRestartScheduler])
def test_a_config_that_does_not_say_what_it_is(ours):
    for config in ({}, diffusers.IPNDMScheduler().config):
        with pytest.raises(RestartError, match="does not say what the noise levels of its model are"):
            ours.from_config(config)


def another(use: Refused) -> object:
    return 0.5 if not use.neutral else not use.neutral[0] if isinstance(use.neutral[0], bool) else "other"


@pytest.mark.parametrize("key", [k for k, use in KEYS.items() if isinstance(use[1], Refused)])
def test_refused_keys_of_flow_models(key):
    config = dict(diffusers.FlowMatchEulerDiscreteScheduler().config)
    with pytest.raises(RestartError, match=f"{key} is not supported|continuous EDM noise levels"):
        FlowMatchRestartScheduler.from_config({**config, key: another(KEYS[key][1])})
    for neutral in (None, *KEYS[key][1].neutral):
        FlowMatchRestartScheduler.from_config({**config, key: neutral}).set_timesteps(5)


@pytest.mark.parametrize("key", [k for k, use in KEYS.items() if isinstance(use[0], Refused)])
def test_refused_keys_of_models_with_betas(key):
    config = dict(diffusers.DDIMScheduler(**SD).config)
    value = "continuous" if key == "timestep_type" else another(KEYS[key][0])
    with pytest.raises(RestartError, match=f"{key} is not supported|continuous EDM noise|flow-matching model"):
        RestartScheduler.from_config({**config, key: value})
    for neutral in (None, *KEYS[key][0].neutral):
        RestartScheduler.from_config({**config, key: neutral}, restart=None).set_timesteps(5)


def test_epsilon_is_no_prediction_of_a_flow_model():
    """A default that was never stated is not meant; a stated one is."""
    theirs = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=5.0)
    FlowMatchRestartScheduler.from_config(theirs.config)
    theirs = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="epsilon")
    with pytest.raises(RestartError, match="a flow model predicts"):
        FlowMatchRestartScheduler.from_config(theirs.config)


def test_an_unknown_key_is_said():
    config = {**diffusers.DDIMScheduler(**SD).config, "warp_levels": 2.0}
    with pytest.warns(UserWarning, match="RestartScheduler does not know the config key 'warp_levels'"):
        RestartScheduler.from_config(config)


def test_two_grids_are_refused():
    with pytest.raises(RestartError, match="use_karras_sigmas and use_beta_sigmas are two grids"):
        RestartScheduler(**SD, use_karras_sigmas=True, use_beta_sigmas=True)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(snr_shift_scale=0), "snr_shift_scale must be a finite number > 0"),
        (dict(final_sigmas_type="last"), "final_sigmas_type must be one of zero, sigma_min"),
        (dict(interpolation_type="cubic"), "interpolation_type must be one of linear, log_linear"),
        (dict(trained_betas=[0.1, 0.2]), "trained_betas has 2 numbers but num_train_timesteps is 1000"),
        (dict(initial_noise="none"), "initial_noise must be one of unit, engine"),
        (dict(restart=None, restart_list=[3, 1, 0.1, 2.0]), "two names of one setting"),
    ],
)
def test_values_that_mean_nothing(options, message):
    with pytest.raises(RestartError, match=message):
        RestartScheduler(**options)


def test_restart_list_is_restart():
    a, b = (RestartScheduler(**SD, restart_list={0.1: [10, 2, 2]}), RestartScheduler(**SD, restart={0.1: [10, 2, 2]}))
    for s in (a, b):
        s.set_timesteps(65)
    assert a.config.restart == b.config.restart and a.plan.digest == b.plan.digest
    f = FlowMatchRestartScheduler(restart_list="[3, 2, 0.4, 0.8]")
    assert f.config.restart == "[3, 2, 0.4, 0.8]" and f.config.restart_list is None
