"""What both schedulers share: a pipeline drives a tape.

`set_timesteps` makes the tape, `step` runs its next row. One scheduler serves one pipeline call at a time, because the state
of a run lives in it, as in every diffusers scheduler; copy.deepcopy gives an independent one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...common.checks import is_integer, scalar
from ...common.errors import ConfigError, RestartError, SeedError
from ...models.parameterization import Parameterization
from ...plan.notation import RestartConfig, RestartInterval
from ...plan.plan import Plan
from ...sampler.noise import normal, seed_tensor
from ...solvers import get_solver
from ...solvers.trace import Position, Tracer, X
from .budget import fit
from .keys import read
from .tape import Registers, Tape, Timesteps, tail

STEPS_ARE = ("nfe", "main")


class SchedulerError(RestartError, RuntimeError):
    """A scheduler that is driven in a way it cannot follow."""


@dataclass
class RestartSchedulerOutput(BaseOutput):
    """`prev_sample`: the sample to go on with; `pred_original_sample`: D of this call, the finished sample as seen from
    here.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class TapeScheduler:
    """A diffusers scheduler without an algorithm of its own: counts calls and runs the rows of a tape.

    Attributes after `set_timesteps`:
        timesteps: float32 [n], one entry per network call. sigmas: float32 [n + 1], their levels and the one where the
            run ends, 0.
        plan: the plan as it runs on this model; `print(scheduler.plan.explain())`.
    """

    order = 1  # one entry of timesteps is one network call, whatever the solver
    kind: str  # of the models that it is for, as keys.py names them
    config: Any

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler of a model, from the config of any scheduler for it. See keys.py for what becomes of each key.

        Raises:
            ConfigError: the config is of a model of another kind, or asks for levels that are not supported.
        """
        if isinstance(config, dict):
            config = read(config, cls, cls.kind, kwargs)
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)  # type: ignore[misc]

    def _reset(self) -> None:
        self._tape: Tape | None = None
        self._registers = Registers()
        self._whole: Tape | None = None
        self._tails: dict[int, tuple[Tape, Tensor]] = {}
        self._row = self._begin = self._asked = 0
        self._started = self._begin_set = self._given = False
        self._seeds: Tensor | None = None
        self._input: Tensor | None = None
        self._warned: set[str] = set()
        self.num_inference_steps: int | None = None
        self.timesteps: Tensor = torch.zeros(0)
        self.sigmas: Tensor = torch.zeros(0)

    # What the two kinds of model differ in

    @property
    def parameterization(self) -> Parameterization:
        """The model's parameterization: with it, `rs.Denoiser(network, …)` is the denoiser this scheduler samples."""
        raise NotImplementedError

    scaled = False

    # Driven by the pipeline

    @property
    def plan(self) -> Plan:
        """The plan that runs."""
        return self._running.plan

    @property
    def _running(self) -> Tape:
        if self._tape is None:
            raise SchedulerError(f"call set_timesteps before using {type(self).__name__}")
        return self._tape

    @property
    def step_index(self) -> int | None:
        """Network calls done in this run; None before the first."""
        return self._row if self._started else None

    @property
    def begin_index(self) -> int | None:
        """What `set_begin_index` was given, None until then."""
        return self._begin if self._begin_set else None

    @property
    def init_noise_sigma(self) -> float:
        """What standard-normal latents are multiplied with to start this run."""
        return self._running.plan.initial_noise * float(self._running.scale[0])

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin where image-to-image pipelines ask: `timesteps[begin_index:]` runs, as `cut` makes it."""
        whole = self._running if self._whole is None else self._whole
        if is_integer(begin_index) and scalar(begin_index) == self._asked:
            raise SchedulerError(
                f"no step is left to run: strength times the {self._asked} steps that were asked for is below 1; raise strength "
                f"to {1 / self._asked:.3g} or more, or ask for more steps"
            )
        if not (is_integer(begin_index) and 0 <= scalar(begin_index) < self._asked):
            raise SchedulerError(f"begin_index must be from 0 to {self._asked - 1}, got {begin_index!r}")
        begin_index = int(begin_index)
        if begin_index == 0:
            self._activate(whole, self.timesteps.as_subclass(Tensor))
        else:
            values = self.cut(begin_index)
            self._activate(self._tails[begin_index][0], values)
        self._begin, self._begin_set = begin_index, True

    def cut(self, begin_index: int) -> Tensor:
        """`timesteps[begin_index:]`: the timesteps of a run that begins there.

        Without Restart and with an Euler step, a run of as many steps as were asked for stands at some level after
        `begin_index` of them; that is where other schedulers begin with the same `strength`. This run begins at the
        point of its main grid that is nearest to it (in ln σ, or in t for flow models), be it the last one. It is a run
        of its own: whole solver steps, no history, the intervals that lie below the level where it begins. How many
        network calls it makes is the length of the result."""
        if begin_index not in self._tails:
            tape = self._whole
            if tape is None or begin_index >= self._asked:
                return self.timesteps.as_subclass(Tensor)[:0]
            plan, left_out = tail(tape.plan, self._point_of(begin_index, tape.plan))
            for line in left_out:
                self._warn(line)
            cut = Tape.build(plan, self.parameterization, self.scaled)
            self._tails[begin_index] = (cut, self._values(cut, self.timesteps.device))
        return self._tails[begin_index][1]

    def _main_levels(self, n: int) -> tuple[float, ...]:
        """Levels of a main grid of n points, without the final 0."""
        raise NotImplementedError

    def _point_of(self, begin_index: int, plan: Plan) -> int:
        """The point of the main grid where a run begins that skips `begin_index` of the steps that were asked for."""
        points = plan.grid[:-1] if plan.steps[-1].s == 0 else plan.grid[:-2]
        share = begin_index * len(points) // self._asked
        if self._given:
            return share
        try:
            level = self._main_levels(self._asked)[begin_index]
        except ConfigError:  # no grid of this model has as many points
            return share
        scale = np.asarray if plan.process == "flow" else np.log
        return int(np.abs(scale(np.array(points)) - scale(level)).argmin())

    @staticmethod
    def no_hand_over() -> SchedulerError:
        """The error for pipelines that stop half-way, or compare timesteps to find where to go on."""
        return SchedulerError(
            "timesteps of a Restart run cannot be compared or cut short: denoising_end and denoising_start are not supported; "
            "use list(scheduler.timesteps) for the values"
        )

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network gets for `sample`."""
        tape = self._running
        if self.scaled or self._row >= len(tape):
            return sample
        c_in = float(self._c_in[self._row])
        self._input = sample * c_in if c_in != 1 else sample
        return self._input

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> RestartSchedulerOutput | tuple[Tensor, ...]:
        """The sample after the next row of the tape.

        Args:
            model_output: F [B, …] of this call, after guidance. Twice as many channels as `sample` has are a learned
                variance, which is left out.
            timestep: the entry of `timesteps` it was made for; checked, not used.
            sample: what the last step returned, or what a mask or a callback made of it.
            generator: for the noise of jumps, one or one per sample; not used when seeds are set.

        Raises:
            SchedulerError: set_timesteps is missing, a call is repeated, skipped or one too many, or the pipeline does
                not scale the network's input.
        """
        tape, k = self._running, self._row
        if k >= len(tape):
            raise SchedulerError(
                f"all {len(tape)} network calls of this run were made; call set_timesteps for another one"
            )
        self._check_order(timestep, k)
        self._check_input(sample, k)
        if model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]
        if model_output.shape != sample.shape:
            raise SchedulerError(
                f"the model output has shape {tuple(model_output.shape)} and the sample {tuple(sample.shape)}; they must agree"
            )
        self._started = True
        D = self._denoised(model_output, sample, k) if return_dict else None

        def noise(draw: int) -> Tensor:
            return self._noise(draw, sample, generator)

        out = self._registers.advance(tape, k, model_output, sample, noise)
        self._row, self._input = k + 1, None
        return RestartSchedulerOutput(out, D) if return_dict else (out,)

    # Noise

    def set_seeds(self, seeds: str | Iterable[int] | Tensor | None) -> None:
        """Noise of jumps from seeds, one per sample: ε(seed, draw) of scheme philox-v1, the same whatever the batch or
        device.

        With `latents=rs.noise.normal(seeds, 0, shape)` given to the pipeline, the run starts from the seeds too. None
        goes back to the pipeline's generator. Seeds stay until they are set again."""
        self._seeds = None if seeds is None else seed_tensor(seeds)

    def _noise(self, draw: int, sample: Tensor, generator: Any) -> Tensor:
        dtype = torch.promote_types(sample.dtype, torch.float32)
        if self._seeds is None:
            return randn_tensor(tuple(sample.shape), generator=generator, device=sample.device, dtype=dtype)
        seeds, batch = self._seeds, len(sample)
        if batch == 2 * len(seeds) and torch.equal(sample[: len(seeds)], sample[len(seeds) :]):
            seeds = seeds.repeat(2)  # DiTPipeline keeps every sample twice under guidance
        if len(seeds) != batch:
            raise SeedError(f"{len(seeds)} seeds were set for a batch of {batch}; set one per sample")
        return normal(seeds, draw, tuple(sample.shape[1:]), sample.device)

    # Making the tape

    def _load(self, plan: Plan, device: Any, asked: int | None) -> None:
        """Make `plan` the one that runs."""
        tape = self._whole = Tape.build(plan, self.parameterization, self.scaled)
        self._given = asked is None
        self.num_inference_steps = self._asked = len(tape) if asked is None else asked
        self._tails = {}
        values = self._values(tape, device)
        self.timesteps = Timesteps.make(values, self)
        self._activate(tape, values)
        self._begin, self._begin_set = 0, False
        if self.config.steps_are == "nfe" and asked is not None and len(tape) != asked:
            self._warn(
                f"{asked} network calls were asked for and {len(tape)} will run, the most that this plan fits into"
            )

    def _activate(self, tape: Tape, values: Tensor) -> None:
        """Stand before the first call of `tape`, whose timesteps are `values`."""
        self._tape, self._values_now, self._host_values = tape, values, tape.timestep.tolist()
        self._registers, self._row, self._input = Registers(), 0, None
        self._started = False
        self._c_in = self.parameterization.coefficients(tape.sigma).c_in
        self.sigmas = torch.tensor([*tape.sigma.tolist(), tape.plan.steps[-1].s], dtype=torch.float32)

    @staticmethod
    def _values(tape: Tape, device: Any) -> Tensor:
        return torch.from_numpy(tape.timestep).to(device, torch.float32)

    def _options(self, restart: RestartConfig | None = None) -> dict[str, Any]:
        """Options of every plan."""
        c = self.config
        return {
            "solver": c.solver or "heun",
            "restart_solver": c.restart_solver,
            "s_noise": c.s_noise,
            "restart": c.restart if restart is None else restart,
        }

    def _fitted(self, build: Any, asked: int, solver: str) -> Plan:
        """`build(n)` with n = `asked` main points, or as many as `asked` network calls hold."""
        if self.config.steps_are == "main":
            return build(asked)
        return fit(build, asked, evaluations_per_step(solver))

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, UserWarning, stacklevel=4)

    # Checks

    def _check_order(self, timestep: Any, k: int) -> None:
        """Is `timestep` entry k? Entries are known by their place in memory, so a GPU is not asked for values."""
        own, given = self._values_now, timestep
        if isinstance(given, Tensor) and given.numel() == 1:
            place = given.untyped_storage().data_ptr()
            if place == own.untyped_storage().data_ptr():
                at = given.storage_offset() - own.storage_offset()
                if at != k:
                    raise SchedulerError(
                        f"step was called with entry {at} of timesteps, but entry {k} is next; call it once for each, in order"
                        + (_BEGIN.format(at) if k == 0 and not self._started else "")
                    )
                return
            for begin, (_, values) in self._tails.items():
                if place == values.untyped_storage().data_ptr():
                    raise SchedulerError(
                        f"step was called with timesteps[{begin}:], which is a run of its own" + _BEGIN.format(begin)
                    )
            given = given.item()
        if isinstance(given, (int, float)) and abs(given - self._host_values[k]) > 4e-3 * abs(given) + 0.5:
            raise SchedulerError(
                f"step was called with timestep {given:g}, but entry {k} of timesteps is {self._host_values[k]:g}; "
                "call it once for each entry, in order"
            )

    def _check_input(self, sample: Tensor, k: int) -> None:
        if self.scaled or self._c_in[k] == 1:
            return
        if self._input is None:
            raise SchedulerError(
                "the network's input was not scaled: this pipeline does not call scale_model_input; "
                "make the scheduler with state='vp'"
            )
        if sample is self._input:
            raise SchedulerError(
                "step was given the scaled input instead of the sample, as DiTPipeline does; make the scheduler with state='vp'"
            )

    def _denoised(self, F: Tensor, sample: Tensor, k: int) -> Tensor:
        """D = c_skip·y + c_out·F, for previews."""
        tape = self._running
        return float(tape.c_skip[k] / tape.scale[k]) * sample + float(tape.c_out[k]) * F.to(sample.dtype)


_BEGIN = "; to begin later, call set_begin_index({0}) first and loop over timesteps[{0}:]"


def without_repeats(levels: Any) -> tuple[float, ...]:
    """Given levels (list, array or tensor) as floats, a level that repeats the one before it left out.

    Some schedulers of diffusers write their last level twice, which is a step of length zero.
    """
    values = levels.tolist() if hasattr(levels, "tolist") else list(levels)
    values = [v.item() if hasattr(v, "item") else v for v in values]
    return tuple(v for i, v in enumerate(values) if i == 0 or v != values[i - 1])


def evaluations_per_step(solver: str) -> int:
    """The most evaluations one step of `solver` takes."""
    tracer = Tracer()
    chosen = get_solver(solver)
    chosen.step(X, 2.0 if "flow" not in chosen.processes else 0.9, 0.5, tracer, Position(remaining=9))
    return len(tracer.stages)


def jsonable(restart: Any) -> Any:
    """A Restart configuration as a scheduler's config can hold it; ConfigError where it cannot be read."""
    if restart is None or restart == "auto":
        return restart
    parsed = RestartConfig.parse(restart, steps=50)
    if isinstance(restart, str):
        return restart
    if isinstance(restart, (RestartConfig, RestartInterval)):
        return parsed.to_json()
    if isinstance(restart, (list, tuple, dict)) and parsed.steps is None:
        return [[i.N, i.K, i.t_min, i.t_max] for i in parsed.intervals]
    raise ConfigError(f"restart cannot be kept in a scheduler's config: {restart!r}; give it as text")
