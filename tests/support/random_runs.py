"""Random runs: a network, plans and edits from one seed, drawn by a sampler and by the literal loop in float64.

A run is either refused, with one clear error before any call of the network, or it makes the calls that its plans say
and its samples are those of the literal loop.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

import restart_sampling as rs
from restart_sampling.models import parameterization
from restart_sampling.plan import guidance
from restart_sampling.plan.start import beginning
from restart_sampling.sampler.executors.graph import MODES
from restart_sampling.sampler.table import bind
from restart_sampling.solvers.registry import handling

from . import literal
from .replays import with_graph
from .tape import TapeCapture

# Relative to the largest value of the samples, in float32. Where the literal loop in float32 is itself farther from the
# one in float64, as rescaled guidance of a few nearly equal elements can be, 10 times its error counts instead.
TOLERANCE = 1e-5
SHAPES = ((3,), (2, 5), (1, 2, 3), (3, 4, 4))
VE = {
    "denoiser": parameterization.denoiser(),
    "edm": parameterization.edm(0.5),
    "vp": parameterization.vp(),
    "eps": parameterization.discrete(np.geomspace(0.02, 30, 50), "eps"),
    "v": parameterization.discrete(np.geomspace(0.02, 30, 50), "v"),
}
FLOW = {
    "flow": parameterization.flow(),
    "denoiser": rs.Denoiser.from_function(lambda x, sigma: x, (1,), process="flow").parameterization,
}
VARIANTS = (
    "unipc:order=2", "unipc:variant=bh1", "sa-solver:pece=true", "sa-solver:corrector=0",
    "sa-solver:tau_max=3,tau_min=0.2", "seeds2:weights=phi2", "exp-heun:sde=true", "res-multistep:sde=true",
    "dpm++2m-sde:variant=heun", "lms:order=2", "deis:order=2,variant=log-rho", "dpm-solver:order=3",
    "er-sde:variant=published", "lms:to_zero=k-diffusion",
)  # fmt: skip
VE_SOLVERS = ("heun", "dpm++2m", *handling("ve"), *VARIANTS)
FLOW_SOLVERS = (*handling("flow"), *VARIANTS)


class Net:
    """F of a toy network, smooth and bounded, in any dtype; `mean` and the class shift its input, if it has them."""

    def __init__(self, name, strength):
        self.name, self.strength, self.rows, self.calls = name, strength, 0, 0

    def __call__(self, net_in, c_noise, class_labels=None, mean=None, bias=None):
        self.calls += 1
        self.rows += len(net_in)
        return self.output(net_in, c_noise, class_labels, mean, bias)

    def output(self, net_in, c_noise, class_labels=None, mean=None, bias=None):
        c_noise = torch.as_tensor(c_noise, dtype=net_in.dtype).reshape(-1, *[1] * (net_in.ndim - 1))
        z = net_in if self.name != "denoiser" else net_in / (1 + c_noise)
        if mean is not None:
            z = z + mean.to(z.dtype).view(-1, *[1] * (z.ndim - 1))
        if class_labels is not None:
            shift = class_labels.to(z.dtype) @ torch.tensor([0.3, -0.5, 0.9], dtype=z.dtype)
            z = z - shift.view(-1, *[1] * (z.ndim - 1))
        if bias is not None:
            z = z + bias.to(z.dtype)
        # The pattern keeps elements apart: over equal ones the std that rescaled guidance divides by is 0.
        pattern = 1.5 * torch.arange(z[0].numel(), dtype=torch.float64).mul(1.7).cos().to(z.dtype).view(z.shape[1:])
        return self.strength * torch.tanh(0.5 * z + 0.2 * z.roll(1, -1) + pattern) + 0.1 * z / (1 + z * z)


@dataclass
class Case:
    """A random run; `seed` makes it again."""

    seed: int
    process: str = "ve"
    network: str = "denoiser"
    guide: bool = False
    null_guide: bool = False
    told: tuple[str, ...] = ()
    guide_told: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    n: int = 1
    batch_size: int = 1
    mode: str = "off"
    plans: list[dict] = field(default_factory=list)
    pairs: bool = False
    edits: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)

    def __str__(self):
        def short(value):
            return f"tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)

        parts = {name: value for name, value in vars(self).items() if name not in ("edits", "values")}
        edits = {name: short(value) for name, value in self.edits.items()}
        return f"{parts}, edits {edits}"


def restart(rng, low, high, steps):
    """A Restart configuration for levels low … high; some do not fit."""
    kind = rng.choice(["none", "one", "one", "two", "repaint"])
    if kind == "repaint":
        return f"repaint:j={rng.randint(1, 4)},r={rng.randint(1, 3)}"
    found = []
    for _ in range({"none": 0, "one": 1, "two": 2}[kind]):
        t_min = math.exp(rng.uniform(math.log(2 * low), math.log(high / 1.5)))
        t_max = math.exp(rng.uniform(math.log(1.2 * t_min), math.log(high)))
        found.append([rng.randint(2, 4), rng.randint(1, 2), t_min, t_max])
    return found


def plan_options(rng, process, guided, numel):
    """Options of Plan.build for samples of `numel` elements."""
    low, high = (rng.uniform(0.02, 0.1), rng.choice([5.0, 20.0])) if process == "ve" else (0.05, rng.choice([1.0, 0.9]))
    steps = rng.randint(2, 8)
    options = dict(steps=steps, sigma_min=low, sigma_max=high)
    if process == "ve":
        options |= dict(solver=rng.choice(VE_SOLVERS), rho=rng.choice([3.0, 7.0]))
        options["schedule"] = rng.choice(["edm", "edm", "exponential", "vp", "ve", "iddpm", "sd"])
    else:
        options |= dict(
            solver=rng.choice(FLOW_SOLVERS), schedule="flow", schedule_options={"shift": rng.choice([1, 3])}
        )
    if rng.random() < 0.15:
        options = {name: value for name, value in options.items() if name not in ("steps", "sigma_min", "sigma_max")}
        options["sigmas"] = sorted({rng.uniform(low, high) for _ in range(steps)}, reverse=True)
    if rng.random() < 0.6:
        options["restart"] = restart(rng, low, high, steps)
        if rng.random() < 0.2:
            options["restart_solver"] = rng.choice(VE_SOLVERS if process == "ve" else FLOW_SOLVERS)
        if rng.random() < 0.1:
            options["restart_gamma"] = 0.1
    if options["solver"] == "edm-stochastic" or rng.random() < 0.1:
        options["s_churn"] = rng.choice([1.0, 10.0])
    if rng.random() < 0.2:
        options["s_noise"] = rng.choice([0.0, 1.01])
    if rng.random() < 0.5:
        options["eta"] = rng.choice([0.0, 0.5, 0.7])
    if rng.random() < 0.1:
        options["eta_window"] = (rng.randint(0, 1), rng.randint(2, max(2, steps)))
    if guided:
        options |= guided_options(rng, low, high, options["solver"], numel)
    return options


def guided_options(rng, low, high, solver, numel):
    """Options of guidance; some methods do not go with every solver. Rescaling few elements divides by little."""
    options = dict(guidance_scale=rng.choice([0.0, 0.5, 1.0, 1.7, 3.0]))
    if rng.random() < 0.6:
        a, b = sorted(math.exp(rng.uniform(math.log(low / 2), math.log(2 * high))) for _ in range(2))
        options["guidance_interval"] = (a, b if rng.random() < 0.7 else None)
    plus = solver in ("euler", "ddpm") or rng.random() < 0.1
    method = rng.choice(["cfg", "cfg", "rescale", "cfg++" if plus else "cfg", "zero-star", "apg"])
    if method == "rescale" and numel > 6:
        return options | dict(guidance_rescale=rng.choice([0.3, 0.7]))
    if method == "zero-star":
        options["zero_init"] = rng.randint(0, 3)
    if method == "apg":
        options |= dict(apg_eta=rng.choice([0.0, 0.5, 1.0]), apg_norm=rng.choice([0.0, 0.5, 5.0]))
    return options | dict(guidance="cfg" if method == "rescale" else method)


def edits(rng, case, generator):
    """Edits of a run, one in eight of them wrong."""

    def image(each=False):
        return torch.randn(*([case.n] if each else []), *case.shape, generator=generator) / 2

    found = {}
    kind = rng.choice(["none", "none", "latents", "start", "start"])
    if kind == "latents":
        found["latents"] = torch.randn(case.n, *case.shape, generator=generator)
    if kind == "start":
        found["start"] = image(rng.random() < 0.5)
        found |= rng.choice([dict(strength=rng.choice([0.3, 0.5, 1.0])), dict(sigma=rng.choice([0.1, 0.5, 3.0]))])
    if rng.random() < 0.5:
        found["known"] = image(rng.random() < 0.5)
        mask = torch.rand(*([case.n] if rng.random() < 0.5 else []), *case.shape, generator=generator)
        found["mask"] = (mask > 0.5).float() if rng.random() < 0.6 else mask
        found["paste"] = "fresh" if kind == "latents" else rng.choice(["initial", "fresh"])
    if rng.random() < 0.12:
        wrong = rng.choice(["strength", "known", "mask", "shape", "nan", "both"])
        if wrong == "strength":
            found = {"strength": 0.5}
        elif wrong == "known":
            found = {"known": image()}
        elif wrong == "mask":
            found = {"known": image(), "mask": 2 * image()}
        elif wrong == "shape":
            found["start"] = torch.zeros(7, 7, 7, 7)
        elif wrong == "nan":
            found = {"known": image() * torch.nan, "mask": torch.ones(case.shape)}
        else:
            found = {"known": image(), "mask": torch.ones(case.shape), "latents": torch.ones(case.n, *case.shape)}
    return found


def make(seed):
    """The case of a seed."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    case = Case(seed, process=rng.choice(["ve", "ve", "flow"]), shape=rng.choice(SHAPES), n=rng.randint(1, 4))
    case.network = rng.choice(list(VE if case.process == "ve" else FLOW))
    guided = rng.random() < 0.6
    case.guide = guided and rng.random() < 0.3
    case.told = tuple(name for name in ("mean", "class_labels", "bias") if rng.random() < 0.5)
    if guided and not case.guide and rng.random() < 0.95:
        case.told = tuple({"mean": None, **dict.fromkeys(case.told)})
    case.null_guide = case.guide and rng.random() < 0.4
    case.pairs = rng.random() < 0.35
    case.plans = [
        plan_options(rng, case.process, guided, math.prod(case.shape))
        for _ in range(rng.randint(2, 3) if case.pairs else 1)
    ]
    if rng.random() < 0.03:
        case.plans[0]["solver"] = rng.choice(["cps", "ddpm"])  # of the other process, or not
    case.batch_size = rng.randint(1, 4)
    case.mode = rng.choice(["off", "off", *MODES])
    case.values = {
        "mean": torch.randn(case.n, generator=generator) / 2,
        "class_labels": torch.randint(0, 3, (case.n,), generator=generator),
        "bias": torch.randn(case.shape, generator=generator) / 2,
    }
    case.edits = edits(rng, case, generator)
    later = random.Random(f"later {seed}")  # so that what came later leaves the rest of a seed's case as it was
    case.guide_told = tuple(name for name in case.told if later.random() < 0.6)
    for options in case.plans:
        if "guidance_interval" in options and later.random() < 0.4:
            options["guidance_interval_rounding"] = "grid"
    return case


def denoiser_of(case, nets):
    """The denoiser of a case; `nets` are its network and, if it has one, its guide's."""
    parameters = (VE if case.process == "ve" else FLOW)[case.network]
    declared = {"mean": rs.Condition((), null=-0.25), "bias": rs.Condition(case.shape, shared=True)}
    found = []
    for net, told in zip(nets, (case.told, case.guide_told), strict=False):
        conditions = {name: spec for name, spec in declared.items() if name in told}
        classes = 3 if "class_labels" in told else 0
        found.append(rs.Denoiser(net, parameters, case.shape, classes, conditions=conditions))
    return found[0].guided_by(found[1], null=case.null_guide) if len(found) > 1 else found[0]


def literal_samples(case, plan, denoiser, nets, dtype=torch.float64):
    """The samples of one plan for all seeds, and the calls of the network per sample."""
    edits = {name: value for name, value in case.edits.items() if name in ("latents", "start", "known", "mask")}
    plan = bind(plan, denoiser.parameterization).plan
    if "start" in edits:
        plan = beginning(plan, case.edits.get("strength"), case.edits.get("sigma"))
    edits = {name: value.to(dtype).expand(case.n, *case.shape) for name, value in edits.items()}

    def told(names, null):
        labels = torch.eye(3)[case.values["class_labels"]] * (not null)
        mean = torch.full((case.n,), -0.25) if null else case.values["mean"]
        values = {"mean": mean, "class_labels": labels, "bias": case.values["bias"]}
        return {name: value for name, value in values.items() if name in names}

    def F(net, names, null):
        return lambda net_in, c_noise: net.output(net_in, c_noise, **told(names, null))

    own = case.told
    second = F(nets[1], case.guide_told, case.null_guide) if len(nets) > 1 else F(nets[0], own, True)
    x, calls = literal.run(
        plan,
        F(nets[0], own, False),
        case.seeds,
        case.shape,
        D_u=second,
        weights=guidance.weights(plan),
        fresh=case.edits.get("paste") == "fresh",
        coefficients=denoiser.parameterization.coefficients,
        dtype=dtype,
        **edits,
    )
    assert sum(calls) == plan.network_calls, (case, calls)
    return x, calls


class Ran(NamedTuple):
    """The largest relative error of a run, and whether it was judged by the literal loop in float32, see TOLERANCE."""

    error: float
    by_float32: bool


class Wrong(AssertionError):
    """A run that is not what its plan says."""


def check(seed):
    """Run the case of a seed: "refused", or what came of it. Raises Wrong with the seed."""
    case = make(seed)
    case.seeds = [seed * 7 + i * 2**33 for i in range(case.n)]
    nets = [Net(case.network, 0.8), Net(case.network, 0.5)][: 1 + case.guide]
    last = {}
    try:
        denoiser = denoiser_of(case, nets)
        plans = [rs.Plan.build(**options) for options in case.plans]
        sampler = rs.Sampler(denoiser, plans[0], case.batch_size, graph="off")
        if case.mode != "off":
            with_graph(sampler, case.mode, TapeCapture())
        seeds = [(s, plans[i % len(plans)]) for i, s in enumerate(case.seeds)] if case.pairs else case.seeds
        told = {name: case.values[name] for name in case.told}
        labels = told.pop("class_labels", None)
        follow = (lambda progress: last.update(calls=progress.network_calls)) if not case.pairs else None
        x = sampler.run(seeds, labels, conditions=told or None, callback=follow, **case.edits)
    except rs.RestartError as error:
        text = str(error)
        if "\n" in text or not 10 < len(text) < 420 or nets[0].calls:
            raise Wrong(f"seed {seed}: a refusal that is not one clear sentence before all calls: {text}") from error
        return "refused"
    except Exception as error:  # all: whatever it is, it is no RestartError
        raise Wrong(f"seed {seed}: {type(error).__name__}: {error} in {case}") from error
    if sampler.executor.note:
        raise Wrong(f"seed {seed}: {sampler.executor.note} in {case}")
    worst, by_float32 = 0.0, False
    for k, plan in enumerate(plans[: case.n]):
        want, calls = literal_samples(case, plan, denoiser, nets)
        own = slice(k, None, len(plans))
        size = float(want[own].abs().max()) or 1.0  # 0 where no evaluation asks the network
        error = float((x[own].double() - want[own]).abs().max()) / size
        allowed = TOLERANCE
        if error > TOLERANCE:
            single = literal_samples(case, plan, denoiser, nets, torch.float32)[0][own].double()
            allowed, by_float32 = max(TOLERANCE, 10 * float((single - want[own]).abs().max()) / size), True
        if not (error <= allowed and x[own].isfinite().all()):
            raise Wrong(f"seed {seed}: {error:.2e} off the literal loop in {case}")
        worst = max(worst, error)
        if not case.pairs:
            if last["calls"] != sum(calls):
                raise Wrong(f"seed {seed}: {last['calls']} network calls, not {sum(calls)}, in {case}")
            rows = [net.rows for net in nets]
            wanted = [case.n * calls[0], case.n * calls[1]] if case.guide else [case.n * sum(calls)]
            if case.mode == "off" and rows != wanted:
                raise Wrong(f"seed {seed}: the network was asked for {rows} samples, not {wanted}, in {case}")
    return Ran(worst, by_float32)
