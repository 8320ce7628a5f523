"""What both schedulers share: a pipeline drives a tape.

`set_timesteps` makes the tape, `step` runs its next row. One scheduler serves one pipeline call at a time, because the
state of a run lives in it, as in every diffusers scheduler; copy.deepcopy gives an independent one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from ...common.checks import is_integer, scalar
from ...common.errors import ConfigError
from ...models.parameterization import Parameterization
from ...plan.notation import RestartConfig
from ...plan.plan import Plan
from ...plan.start import tail
from ...sampler.noise import seed_tensor
from ...solvers import get_solver
from .begin import Timesteps, first_point
from .budget import fit
from .errors import SchedulerError
from .keys import read
from .kinds import refuse_other_kinds
from .noise import noise_like
from .order import check_input, check_order
from .solvers import FROM_CONFIG, SAID_BY_SOLVER, is_scheduler, solver_of
from .tape import Registers, Tape


@dataclass
class RestartSchedulerOutput(BaseOutput):
    """The result of a call.

    Attributes:
        prev_sample: the sample of the next call.
        pred_original_sample: D of this call, the network's estimate of the finished sample.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class TapeScheduler:
    """A diffusers scheduler without an algorithm of its own: it counts calls and runs the rows of a tape.

    Attributes after `set_timesteps`:
        timesteps: float32 [n], one entry per network call.
        sigmas: float32 [n + 1], their levels and the one where the run ends, 0.
        plan: the plan as it runs on this model; `print(scheduler.plan.explain())`.
    """

    order = 1  # one entry of timesteps is one network call, whatever the solver
    kind: str  # of the models that it is for, as keys.py names them
    config: Any

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Return the scheduler of a model, from the config of any scheduler for it; keys.py says what each key does.

        With solver="config" the solver is that of the config's scheduler, or of the one that is named, see solvers.py.
        A scheduler may be given instead of its config, which does not always say what class it is of.

        Raises:
            ConfigError: the config is of a model of another kind, or asks for levels that are not supported.
        """
        if isinstance(config, ConfigMixin):
            config = {**config.config, "_class_name": type(config).__name__}
        if isinstance(config, dict):
            name = kwargs.get("solver")
            if name == FROM_CONFIG or is_scheduler(name):
                refuse_other_kinds({**config, **kwargs}, cls, cls.kind)
                chosen = solver_of({**config, **kwargs}, None if name == FROM_CONFIG else name)
                # What now runs as a solver is no key that remains to be followed.
                config = {k: v for k, v in config.items() if k not in SAID_BY_SOLVER}
                kwargs = {"eta": chosen.eta, **kwargs, "solver": chosen.solver}
            config = read(config, cls, cls.kind, kwargs)
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)  # type: ignore[misc]

    def _reset(self) -> None:
        self._tape: Tape | None = None
        self._registers = Registers()
        self._drawn: dict[int, Tensor] = {}  # noise of a generator that a later row has again
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

    scaled = False  # whether the pipeline's sample is in VP scale

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
                f"no step is left to run: strength times the {self._asked} steps that were asked for is below 1; raise "
                f"strength to {1 / self._asked:.3g} or more, or ask for more steps"
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
        """Return `timesteps[begin_index:]`: the timesteps of a run that begins there, one per network call.

        Without Restart and with an Euler step, a run of as many steps as were asked for stands at some level after
        `begin_index` of them; that is where other schedulers begin with the same `strength`. This run begins at the
        point of its main grid that is nearest to that level (in ln σ, or in t for flow models), even if it is the last
        one. It is a run of its own: whole solver steps, no history, the intervals below the level where it begins.
        """
        if begin_index not in self._tails:
            tape = self._whole
            if tape is None or begin_index >= self._asked:
                return self.timesteps.as_subclass(Tensor)[:0]
            level = None if self._given else self._level_after(begin_index)
            plan, left_out = tail(tape.plan, first_point(tape.plan, begin_index, self._asked, level))
            for line in left_out:
                self._warn(line)
            cut = Tape.build(plan, self.parameterization, self.scaled)
            self._tails[begin_index] = (cut, cut.timesteps(self.timesteps.device))
        return self._tails[begin_index][1]

    def _main_levels(self, n: int) -> tuple[float, ...]:
        """Return the levels of a main grid of n points, without the final 0."""
        raise NotImplementedError

    def _level_after(self, n: int) -> float | None:
        """Return the level after n of the steps asked for; None if no grid of this model has as many points."""
        try:
            return self._main_levels(self._asked)[n]
        except ConfigError:
            return None

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the network's input for `sample`."""
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
        """Run the next row of the tape, and return the sample after it.

        Args:
            model_output: F [B, …] of this call, after guidance. Twice as many channels as `sample` has are a learned
                variance, which is left out.
            timestep: the entry of `timesteps` it was made for; checked, not used.
            sample: what the last call returned, or what a mask or a callback made of it.
            generator: for the noise of jumps, one or one per sample; not used when seeds are set.
            return_dict: whether the result is a RestartSchedulerOutput, or a tuple of the sample alone.

        Raises:
            SchedulerError: set_timesteps was not called, a call is repeated, skipped or one too many, or the pipeline
                does not scale the network's input.
        """
        tape, k = self._running, self._row
        if k >= len(tape):
            raise SchedulerError(
                f"all {len(tape)} network calls of this run were made; call set_timesteps for another one"
            )
        tails = {begin: values for begin, (_, values) in self._tails.items()}
        check_order(timestep, k, self._values_now, self._host_values, tails, first=not self._started)
        if not self.scaled and self._c_in[k] != 1:
            check_input(sample, self._input)
        if model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]
        if model_output.shape != sample.shape:
            raise SchedulerError(
                f"the model output has shape {tuple(model_output.shape)} and the sample {tuple(sample.shape)}; "
                "they must agree"
            )
        self._started = True
        D = self._denoised(model_output, sample, k) if return_dict else None

        def noise(draw: int) -> Tensor:
            found = self._drawn.pop(draw, None)
            found = noise_like(sample, draw, self._seeds, generator) if found is None else found
            if self._seeds is None and tape.last_use[draw] > k:  # a generator would not give it again
                self._drawn[draw] = found
            return found

        out = self._registers.advance(tape, k, model_output, sample, noise)
        self._row, self._input = k + 1, None
        return RestartSchedulerOutput(out, D) if return_dict else (out,)

    # Noise

    def set_seeds(self, seeds: str | Iterable[int] | Tensor | None) -> None:
        """Take the noise of jumps from seeds, one per sample, whatever the batch or device: scheme philox-v1.

        With `latents=rs.noise.normal(seeds, 0, shape)` given to the pipeline, the run starts from the seeds too. None
        returns to the pipeline's generator. Seeds stay until they are set again.
        """
        self._seeds = None if seeds is None else seed_tensor(seeds)

    # Making the tape

    def _load(self, plan: Plan, device: Any, asked: int | None) -> None:
        """Make `plan` the one that runs; `asked` network calls were asked for, None if levels were given instead."""
        tape = self._whole = Tape.build(plan, self.parameterization, self.scaled)
        self._given = asked is None
        self.num_inference_steps = self._asked = len(tape) if asked is None else asked
        self._tails = {}
        values = tape.timesteps(device)
        self.timesteps = Timesteps.make(values, self)
        self._activate(tape, values)
        self._begin, self._begin_set = 0, False
        if self.config.steps_are == "nfe" and asked is not None and len(tape) != asked:
            self._warn(
                f"{asked} network calls were asked for and {len(tape)} will run, the most that this plan fits into"
            )

    def _activate(self, tape: Tape, values: Tensor) -> None:
        """Begin a run of `tape`, whose timesteps are `values`."""
        self._tape, self._values_now, self._host_values = tape, values, tape.timestep.tolist()
        self._registers, self._row, self._input = Registers(), 0, None
        self._drawn = {}
        self._started = False
        self._c_in = self.parameterization.coefficients(tape.sigma).c_in
        self.sigmas = torch.tensor([*tape.sigma.tolist(), tape.plan.steps[-1].s], dtype=torch.float32)

    def _options(self, restart: RestartConfig | None = None) -> dict[str, Any]:
        """Return the options of every plan."""
        c = self.config
        return {
            "solver": c.solver or "heun",
            "restart_solver": c.restart_solver,
            "s_noise": c.s_noise,
            "eta": c.eta,
            "restart": c.restart if restart is None else restart,
        }

    def _fitted(self, build: Any, asked: int, solver: str) -> Plan:
        """Return the plan with `asked` main points, or with as many as `asked` network calls hold."""
        if self.config.steps_are == "main":
            return build(asked)
        return fit(build, asked, get_solver(solver).evaluations)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, UserWarning, stacklevel=4)

    def _denoised(self, F: Tensor, sample: Tensor, k: int) -> Tensor:
        """Return D = c_skip·y + c_out·F, for previews."""
        tape = self._running
        return float(tape.c_skip[k] / tape.scale[k]) * sample + float(tape.c_out[k]) * F.to(sample.dtype)
