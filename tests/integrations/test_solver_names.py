"""The tables of names in docs/diffusers.md and docs/k_diffusion.md follow the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from restart_sampling.solvers import get_solver

DOCS = Path(__file__).parents[2] / "docs"
COMFYUI = (  # of comfy.samplers.KSAMPLER_NAMES and SAMPLER_NAMES; those with _gpu or _cfg_pp at the end left out
    *("euler", "euler_ancestral", "heun", "heunpp2", "exp_heun_2_x0", "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral"),
    *("lms", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"),
    *("ddpm", "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_ancestral", "gradient_estimation"),
    *("er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2"),
)
FIRST_SETTINGS = {  # settings of one scheduler that stand for different solvers
    "DPMSolverMultistepScheduler": (
        {},
        {"solver_type": "heun"},
        {"solver_order": 3},
        {"solver_order": 3, "solver_type": "heun"},
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "dpmsolver"},
        {"algorithm_type": "sde-dpmsolver"},
    ),
    "UniPCMultistepScheduler": ({}, {"solver_order": 3}, {"solver_type": "bh1"}),
    "DEISMultistepScheduler": ({}, {"solver_order": 3}),
    "FlowMatchEulerDiscreteScheduler": ({}, {"stochastic_sampling": True}),
}


def diffusers_rows():
    pytest.importorskip("diffusers")
    from restart_sampling.integrations.diffusers.solvers import PLAIN, RULES, solver_of

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for name in sorted({*PLAIN, *RULES}):
        for settings in FIRST_SETTINGS.get(name, ({},)):
            solver, eta = solver_of({**betas, "_class_name": name, **settings})
            said = " ".join(f"`{key}={value}`" for key, value in settings.items())
            noisy = get_solver(solver).noisy or eta != 1
            solver = solver.partition(",tau_at")[0]  # the levels that follow are those of the model
            yield f"| {' '.join(filter(None, (name.removesuffix('Scheduler'), said)))} | `{solver}`" + (
                f", η = {eta:g} |" if noisy else " |"
            )


def comfyui_rows():
    for name in COMFYUI:
        solver = get_solver(name)
        flow = "" if "flow" in solver.processes else " | not for flow models |"
        yield f"| `{name}` | `{solver.spec}`{flow or ' | |'}"


def table(page, rows):
    rows, lines = list(rows), (DOCS / page).read_text(encoding="utf-8").splitlines()
    missing = [row for row in rows if row not in lines]
    assert not missing, "\n" + "\n".join(rows)
    first = lines.index(rows[0])
    assert lines[first : first + len(rows)] == rows


def test_the_table_of_diffusers():
    table("diffusers.md", diffusers_rows())


def test_the_table_of_k_diffusion_and_comfyui():
    table("k_diffusion.md", comfyui_rows())
