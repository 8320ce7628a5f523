"""The nodes. ComfyUI reads their class attributes, whose meaning is in its documentation of custom nodes."""

from __future__ import annotations

from typing import Any, ClassVar

from ...common.errors import BackendError, RestartError
from ...plan.notation import RestartConfig
from ...solvers import SOLVERS, get_solver
from ...solvers.registry import handling
from ..k_diffusion.fit import BUDGETS, PROCESSES, fit
from .sampler import sample_restart_in_comfyui

CATEGORY = "sampling/custom_sampling/samplers"
RESTART_HELP = (
    "[N, K, t_min, t_max] or several of them, {t_min: [N, K, t_max]} as in A1111, default, a1111 or none. "
    "Levels are sigmas of the model."
)
SOLVER_HELP = (
    f"for SD3, Flux and the like one of {', '.join(handling('flow'))}; for other models one of "
    f"{', '.join(handling('ve'))}"
)


def _inputs() -> dict[str, Any]:
    return {
        "restart": ("STRING", {"default": "default", "multiline": True, "tooltip": RESTART_HELP}),
        "solver": (list(SOLVERS), {"default": "heun", "tooltip": SOLVER_HELP}),
        "s_noise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.001, "tooltip": "factor on all noise"}),
        "budget": (
            list(BUDGETS),
            {"tooltip": "steps: as many model calls as without Restart; extra: intervals on top of the given steps"},
        ),
    }


def _optional() -> dict[str, Any]:
    """Return the inputs that came later, so that saved workflows stay valid."""
    options = {"default": "", "tooltip": "of the solver, as order=2 or order=2,variant=bh1 for unipc; empty: none"}
    noise = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "scale of a stochastic solver's noise"}
    return {"eta": ("FLOAT", noise), "solver_options": ("STRING", options)}


def _solver(name: str, options: str) -> str:
    """Return the solver with its options, as sample_restart reads it. Raises ConfigError if it cannot have them."""
    return get_solver(f"{name}:{options.strip()}" if options.strip() else name).spec


class RestartSamplerNode:
    """A SAMPLER for SamplerCustom and SamplerCustomAdvanced."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("SAMPLER",)
    FUNCTION = "get_sampler"
    CATEGORY = CATEGORY
    DESCRIPTION = "Restart sampling (arXiv 2306.14878): jumps back up in noise inside intervals, solved back down."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": _inputs(), "optional": _optional()}

    @classmethod
    def VALIDATE_INPUTS(
        cls, restart: str = "default", solver: str = "heun", solver_options: str | None = ""
    ) -> bool | str:
        """Return True, or the sentence that ComfyUI shows at the node."""
        try:
            RestartConfig.parse(restart, steps=20)
            _solver(solver, solver_options or "")
        except RestartError as error:
            return str(error)
        return True

    def get_sampler(
        self, restart: str, solver: str, s_noise: float, budget: str, eta: float = 1.0, solver_options: str = ""
    ) -> tuple[Any]:
        """Return ComfyUI's sampler object."""
        solver = _solver(solver, solver_options)
        options = {"restart": restart, "solver": solver, "s_noise": s_noise, "budget": budget, "eta": eta}
        return (_ksampler()(sample_restart_in_comfyui, extra_options=options),)


class RestartPlanNode:
    """What a Restart Sampler would do on given sigmas, as text."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("STRING", "INT")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("plan", "model_calls")
    FUNCTION = "explain"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = "The plan of a Restart Sampler for these sigmas: grid, jumps, model calls, and what was changed."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"sigmas": ("SIGMAS",), **_inputs()},
            "optional": {**_optional(), "process": (list(PROCESSES), {"tooltip": "flow for SD3, Flux and the like"})},
        }

    def explain(
        self,
        sigmas: Any,
        restart: str,
        solver: str,
        s_noise: float,
        budget: str,
        process: str = "ve",
        eta: float = 1.0,
        solver_options: str = "",
    ) -> dict[str, Any]:
        """Return the text for the node, and the outputs: the plan as text, and its number of model calls."""
        solver = _solver(solver, solver_options)
        plan, _ = fit(sigmas, restart, solver=solver, s_noise=s_noise, budget=budget, process=process, eta=eta)
        text = "there is no step to make" if plan is None else plan.explain()
        return {"ui": {"text": [text]}, "result": (text, 0 if plan is None else plan.nfe)}


def _ksampler() -> Any:
    try:
        from comfy.samplers import KSAMPLER
    except ImportError:
        raise BackendError(
            "this node makes a sampler of ComfyUI, and ComfyUI is not here; elsewhere call "
            "restart_sampling.integrations.k_diffusion.sample_restart"
        ) from None
    return KSAMPLER
