r"""The sampler: denoiser × plan × executor.

`Sampler` binds a plan to a network once and then draws any number of samples; image N depends on seed N alone (its noise to
the last bit, whatever the batch, the plans beside it and the executor). `sample` is the one-line form.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import restart_kernels
from restart_kernels.layout import IDLE, NEVER

from ..common import forked, progress_bar
from ..common.checks import choice, integer, shown
from ..common.devices import check_device, made_current, on_own_device, while_it_runs
from ..common.errors import BackendError, NonFiniteError, RestartTypeError, RestartValueError
from ..common.marks import mark
from ..common.turns import Turns
from ..models.denoiser import Denoiser
from ..models.network_output import FLOATS, Checked
from ..plan.plan import Plan
from ..plan.segments import Span
from . import inputs as sampler_inputs
from . import pfgmpp
from .autobatch import LARGEST, choose_batch
from .executors import Evaluation, Lanes, Network, Slices, ThreadExecutor, continuous, make_executor, threads
from .executors.buckets import batches, bucket
from .executors.selfcheck import begin
from .network import DTYPES, PreparedNetwork, prepare
from .program import Entry, Program, Tables
from .table import Table


@dataclass(frozen=True)
class Progress:
    """Where a run stands: samples finished, samples asked for, evaluation `row` of `nfe` in the running batch."""

    done: int
    total: int
    batch: int
    row: int
    nfe: int


@dataclass(frozen=True, repr=False)
class Batch:
    """Samples that finished together.

    seeds int64 [n], labels int64 [n] or None, x float32 [n, *shape], what went wrong, and where each stands in the
    request: index int64 [n].
    """

    seeds: Tensor
    labels: Tensor | None
    x: Tensor
    failures: tuple[dict[str, Any], ...]
    index: Tensor

    def __repr__(self) -> str:
        bad = f", {len(self.failures)} not finite" if self.failures else ""
        return f"Batch(x={list(self.x.shape)} on {self.x.device}{bad})"


class Sampler:
    """Draws samples of `denoiser` by `plan`.

    Args:
        denoiser: what `rs.load` or `Denoiser.from_function` gives.
        plan: what `rs.Plan.build` or `rs.preset` gives. `sampler.plan` is the plan as bound to this network.
        batch_size: samples per network call, or "auto": from the network's activations (`autobatch.py`).
        backend: "auto", "reference", "triton" or "native": the implementation of the fused step.
        graph: "auto", "off", "step", "loop", "trajectory" or "while" (experimental): how evaluations are launched, see
            `executors/graph.py`. "auto" is "loop" on CUDA and "off" elsewhere. Under graphs or torch.compile a batch
            smaller than batch_size runs on the next larger of 1, 2, 4, … lanes, each captured and compiled on first
            need.
        compile: "auto", "on" or "off": whether torch.compile compiles the network, see `network.py`.
        device: default: where the network is.
        dtype: network precision, "fp32", "tf32", "bf16" or "fp16" (registers stay float32).
        batch_invariant: under graphs or torch.compile, every batch runs on batch_size lanes, whatever the number of
            samples. On a CPU, run a network that can be sliced with one thread for each slice, always: with 8 samples
            or more at a time, oneDNN then gives a sample the same bits in any batch. Slower where cores outnumber the
            slices.

    Raises:
        RestartError: anything that cannot run, before any network call.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        plan: Plan,
        batch_size: int | str = 64,
        backend: str = "auto",
        graph: str = "auto",
        compile: str = "auto",
        *,
        device: str | torch.device | None = None,
        dtype: str = "fp32",
        register_dtype: torch.dtype = torch.float32,
        batch_invariant: bool = False,
    ) -> None:
        if not isinstance(denoiser, Denoiser):
            raise RestartTypeError(
                f"the first argument must be a Denoiser, got {type(denoiser).__name__}; use rs.load or Denoiser.from_function"
            )
        sampler_inputs.check_plan(plan)
        choice("dtype", dtype, DTYPES, error=BackendError)
        if str(register_dtype) not in ("torch.float32", "torch.float64"):
            raise BackendError(f"register_dtype must be torch.float32 or torch.float64, got {shown(register_dtype)}")
        self.device = denoiser.device if device is None else check_device(device)
        forked.settle()
        exact = register_dtype == torch.float64  # the oracle: float64 throughout
        try:
            self.backend = restart_kernels.resolve_backend(backend, self.device, register_dtype)
        except restart_kernels.KernelError as error:
            raise BackendError(str(error)) from None
        self.executor = make_executor(graph, self.device, self.backend)
        self.denoiser, self.register_dtype = denoiser.to(self.device), register_dtype
        if isinstance(batch_size, str) and batch_size == "auto":
            guided = plan.config.guided
            batch_size = choose_batch(self.denoiser, LARGEST, self.device, dtype=DTYPES[dtype], guided=guided)
        self.batch_size = integer("batch_size", batch_size, 1, also=" or 'auto'", error=RestartValueError)
        self.batch_invariant = batch_invariant
        self._tables = Tables(denoiser.parameterization)
        self.program = Program(self.device, register_dtype)
        self.set_plan(plan)
        if exact:
            floats = {str(p.dtype) for p in denoiser.parameters if p.is_floating_point()}
            if stored := sorted(floats - set(map(str, FLOATS))):
                raise BackendError(
                    f"float64 registers run the network as it is, and its weights are {', '.join(stored)}; "
                    "convert it with network.double() first"
                )
            self.network: Network = Checked(denoiser.network)
            self.net_dtype = torch.float64
        else:
            prepared = prepare(self.denoiser, device=self.device, dtype=dtype, compile=compile)
            self.network, self.net_dtype = prepared, prepared.net_dtype
        self.pads = self.executor.pads or getattr(self.network, "compiled", False)
        self.turns = Turns()
        self._lanes: Lanes | None = None
        self._evaluations: dict[tuple[int, bool], Evaluation] = {}
        self._sliced: dict[tuple[int, int], Slices] = {}
        self._pools: dict[int, ThreadExecutor] = {}

    def set_plan(self, plan: Plan) -> None:
        """Go on with another plan. Buffers, compiled network and captured graphs stay: only the table changes."""
        self.table = self._bind(plan)
        self.plan = self.table.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """What runs otherwise than asked, one line each: a capture that failed, a network that was not compiled."""
        slow = ""
        if not restart_kernels.get_backend(self.backend).fused and self.register_dtype == torch.float32:
            slow = restart_kernels.why_not(restart_kernels.fastest_backend(self.device), self.device) or ""
        if slow:
            slow = f"the update of each row runs on the slow {self.backend} backend: {slow}"
        notes = (slow, *getattr(self.network, "notes", ()), self.executor.note, forked.note())
        return tuple(note for note in notes if note)

    def __repr__(self) -> str:
        return f"Sampler({self.denoiser.name!r}, {self.plan!r}, batch_size={self.batch_size}, {self.describe()})"

    def describe(self) -> str:
        """What runs, in one line, e.g. "native on cpu, graph off, network fp32, eager, contiguous"."""
        network = self.network.describe() if isinstance(self.network, PreparedNetwork) else "float64"
        return f"{self.backend} on {self.device}, graph {self.executor.describe()}, network {network}"

    @torch.inference_mode(False)  # as a run: a network compiled in one mode is compiled again in the other
    @torch.no_grad()
    def warmup(self, n: int | None = None) -> Sampler:
        """Compile and capture now what a run of `n` samples of the plan needs (default: batch_size), and return the
        sampler.

        A run does this by itself on first need. Draws nothing and changes no result. Runs of (seed, plan) pairs compile
        and capture other batch sizes on their way."""
        forked.settle()
        n = self.batch_size if n is None else integer("n", n, 1)
        D = self.denoiser.augmented_dim
        per_sample, tables = D is not None, [self.table]
        with self.turns.taken(), made_current(self.device):
            if D is not None:  # as many tables as a run needs: a program that grows is captured again
                seeds = torch.arange(min(n, self.batch_size))
                tables = pfgmpp.tables(tables * len(seeds), seeds, D)
            entry = self._entries(*tables)[0]
            for samples in batches(n, self.batch_size):
                slices = None if per_sample else self._slices(samples)
                if slices is not None:
                    self._threads()
                for part in slices.parts if slices else (self._evaluation(self._lanes_for(samples), per_sample),):
                    if slices is None:
                        self._prepare(part, (entry,))
                    begin(part, entry)
                    part.machine.cursor.fill_(IDLE)
                    part()
        return self

    def run(
        self,
        seeds: Iterable[int] | Tensor | Iterable[tuple[int, Plan]],
        class_labels: sampler_inputs.Labels = None,
        *,
        latents: Tensor | None = None,
        callback: Callable[[Progress], None] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Samples float32 [len(seeds), *shape], in the order of `seeds`.

        Args:
            seeds: one integer in [0, 2^63) per sample, as a list, range, array, tensor or text such as "0-63,100"; or
                (seed, plan) pairs: samples of different plans then share batches, and a lane that finishes takes the
                next sample (continuous batching). One integer n alone is refused: it may mean range(n) or [n].
            class_labels: a class for all, or one per seed, by number or name; default: drawn from the seed. Raises if
                the network is unconditional.
            latents: standard-normal start [len(seeds), *shape] instead of the seed's draw 0.
            progress: show a bar on stderr.
            callback: called on the host with a :class:`Progress` as evaluations are launched: after every one of them,
                or after every replay of a captured graph.

        Raises:
            NonFiniteError: some samples became NaN or infinite; `.failures` names them, `.samples` holds the result.
        """
        parts: list[Tensor] = []
        order: list[Tensor] = []
        failures: list[dict[str, Any]] = []
        with progress_bar.shown(progress, callback) as follow:
            for batch in self.iterate(seeds, class_labels, latents=latents, callback=follow):
                parts.append(batch.x)
                order.append(batch.index)
                failures += batch.failures
        x = torch.cat(parts) if parts else torch.empty(0, *self.denoiser.shape, device=self.device)
        place = torch.cat(order).argsort() if order else torch.arange(0)
        if not torch.equal(place, torch.arange(len(place))):
            x = x[place.to(x.device)]
        if failures:
            raise NonFiniteError(describe_failures(failures), failures, x)
        return x

    @torch.inference_mode(False)  # buffers are ordinary tensors: a function may take gradients from its input
    @torch.no_grad()
    @while_it_runs(lambda sampler: sampler.turns.taken())
    @on_own_device
    def iterate(
        self,
        seeds: Iterable[int] | Tensor | Iterable[tuple[int, Plan]],
        class_labels: sampler_inputs.Labels = None,
        *,
        latents: Tensor | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> Iterator[Batch]:
        """As `run`, batch by batch, for results that should not be held all at once; reports failures, raises none.

        Of (seed, plan) pairs a batch is what finished together, in running order; `Batch.index` says what is what.
        Their run must end before another one of this sampler begins; other runs may be mixed, and keep the plan they
        began with.

        Raises:
            RestartValueError: the sampler is in the middle of another run.
        """
        forked.settle()
        table = self.table
        progress_bar.check_callback(callback)
        all_seeds, plans = sampler_inputs.split(seeds)
        labels = sampler_inputs.labels(self.denoiser, all_seeds, class_labels)
        if plans is not None or self.denoiser.augmented_dim is not None:
            if latents is not None:
                what = "(seed, plan) pairs; run plan by plan" if plans is not None else "a PFGM++ network"
                raise RestartValueError(f"latents are not taken with {what}")
            # Each plan once, so that a plan has one table however many plans are between its samples.
            bound = {id(plan): self._bind(plan) for plan in {id(p): p for p in plans or ()}.values()}
            tables = [table] * len(all_seeds) if plans is None else [bound[id(p)] for p in plans]
            yield from self._mixed(all_seeds, tables, labels, callback)
            return
        total = len(all_seeds)
        latents = sampler_inputs.latents(latents, total, self.denoiser.shape, self.device)
        for start in range(0, total, self.batch_size):
            part = slice(start, min(start + self.batch_size, total))
            n = part.stop - part.start
            (entry,) = self._entries(table)
            on_row = None if callback is None else _reporter(callback, start, total, n, entry.nfe)
            given = (
                all_seeds[part].to(self.device),
                None if labels is None else labels[part].to(self.device),
                None if latents is None else latents[part],
            )
            with mark("batch"):
                slices = self._slices(n)
                if slices is not None:
                    slices.load(entry, *given)
                    self._threads().run(slices, entry.spans, on_row)
                    x, first_bad = slices.result(n)
                else:
                    evaluation = self._evaluation(self._lanes_for(n))
                    self._prepare(evaluation, (entry,))
                    evaluation.load(entry, *given)
                    self.executor.run(evaluation, entry.spans, on_row)
                    x, first_bad = evaluation.result(n)
            part_labels = None if labels is None else labels[part]
            failures = self._failures(all_seeds[part], [entry] * n, first_bad)
            yield Batch(all_seeds[part], part_labels, x, failures, torch.arange(part.start, part.stop))

    def _mixed(
        self, seeds: Tensor, tables: Sequence[Table], labels: Tensor | None, callback: Callable[[Progress], None] | None
    ) -> Iterator[Batch]:
        """Batches of samples with a table each, as they finish."""
        D, total = self.denoiser.augmented_dim, len(seeds)
        # With PFGM++ every sample has a table of its own, so only those of one batch are held at a time.
        chunk = total if D is None else self.batch_size
        for start in range(0, total, max(chunk, 1)):
            part = slice(start, min(start + chunk, total))
            own = tables[part] if D is None else pfgmpp.tables(tables[part], seeds[part], D)
            for finished in self._continuous(seeds[part], own, labels, start, total, callback):
                index = torch.tensor([start + job.place for job in finished.jobs])
                failures = self._failures(seeds[index], [job.entry for job in finished.jobs], finished.first_bad)
                yield Batch(seeds[index], None if labels is None else labels[index], finished.x, failures, index)

    def _continuous(
        self,
        seeds: Tensor,
        tables: Sequence[Table],
        labels: Tensor | None,
        start: int,
        total: int,
        callback: Callable[[Progress], None] | None,
    ) -> Iterator[continuous.Finished]:
        """What finishes together, of the samples `start` … of `total`."""
        entries = self._entries(*tables)
        chosen = [None] * len(seeds) if labels is None else labels[start : start + len(seeds)].tolist()
        jobs = [
            continuous.Job(i, seed, label, entry)
            for i, (seed, label, entry) in enumerate(zip(seeds.tolist(), chosen, entries, strict=True))
        ]
        done = start

        def advance(evaluation: Evaluation, spans: Sequence[Span]) -> None:
            on_row = None
            if callback is not None:
                on_row = _reporter(callback, done, total, 0, spans[0].rows)
            self.executor.run(evaluation, spans, on_row)

        def evaluation(n: int) -> Evaluation:
            made = self._evaluation(n, per_sample=True)
            self._prepare(made, entries)
            return made

        def lanes_for(live: int) -> int:
            # Another compilation takes longer than what is left of a run when its batch is no longer full.
            compiled = getattr(self.network, "compiled", False)
            return self._lanes_for(min(len(jobs), self.batch_size) if compiled else live)

        for finished in continuous.run(jobs, evaluation, self.batch_size, advance, lanes_for):
            done += len(finished.jobs)
            turn = self.turns.count
            yield finished
            if done < start + len(jobs):  # samples are under way in the buffers
                self.turns.check_alone(turn)

    def _bind(self, plan: Plan) -> Table:
        """Return the plan's table for this network."""
        if sampler_inputs.check_plan(plan).config.guided and self.denoiser.label_dim == 0:
            raise RestartValueError(
                f"guidance_scale = {plan.config.guidance_scale:g} needs a class-conditional network, and "
                f"{self.denoiser.name!r} has no classes; leave guidance_scale at 1"
            )
        return self._tables.get(plan)

    def _entries(self, *tables: Table) -> list[Entry]:
        """Places of the tables in the program; buffers that no longer fit them are let go."""
        generation = self.program.generation
        entries = self.program.add(*tables)
        guided = any(table.plan.config.guided for table in tables)
        if self._lanes is None or self._lanes.guided != guided:
            self._lanes = self._make_lanes(self.batch_size, guided)
            self._evaluations, self._sliced = {}, {}
        if self.program.generation != generation:
            self._evaluations, self._sliced = {}, {}
        return entries

    def _make_lanes(self, size: int, guided: bool) -> Lanes:
        return Lanes.make(
            size, self.denoiser.shape, self.denoiser.label_dim, guided, self.device, self.net_dtype, self.register_dtype
        )

    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every evaluation made so far, those of slices too; for profilers."""
        parts = (part for slices in self._sliced.values() for part in slices.parts)
        return (*self._evaluations.values(), *parts)

    def _slices(self, n: int) -> Slices | None:
        """The batch of n samples in slices, one for a thread, where the network may run in several at once."""
        if self.device.type != "cpu" or self.pads or not getattr(self.network, "concurrent", False):
            return None
        parts = threads.count(n, torch.get_num_threads())
        if parts == 1 and not self.batch_invariant:
            return None
        if (n, parts) not in self._sliced:
            assert self._lanes is not None
            guided = self._lanes.guided
            self._sliced[n, parts] = Slices(
                [
                    Evaluation(self.network, self.program, self._make_lanes(size, guided), size, self.backend)
                    for size in threads.sizes(n, parts)
                ]
            )
        return self._sliced[n, parts]

    def _threads(self) -> ThreadExecutor:
        total = torch.get_num_threads()
        if total not in self._pools:
            slices = threads.count(self.batch_size, total)
            self._pools[total] = ThreadExecutor(slices, total, 1 if self.batch_invariant else None)
        return self._pools[total]

    def _lanes_for(self, n: int) -> int:
        """Lanes that a batch of n samples runs on."""
        if not self.pads:
            return n
        return self.batch_size if self.batch_invariant else bucket(n, self.batch_size)

    def _prepare(self, evaluation: Evaluation, entries: Sequence[Entry]) -> None:
        """Capture what the plans need on this evaluation. Plans that share a batch are cut where their samples end."""
        longest = max(entries, key=lambda entry: entry.nfe)
        spans = (Span("mixed", longest.nfe),) if evaluation.per_sample else longest.spans
        self.executor.prepare(evaluation, longest, spans)

    def _evaluation(self, n: int, per_sample: bool = False) -> Evaluation:
        key = (n, per_sample)
        if key not in self._evaluations:
            assert self._lanes is not None
            if isinstance(self.network, PreparedNetwork):
                self.network.expect(2 * n if self._lanes.guided else n)
            self._evaluations[key] = Evaluation(self.network, self.program, self._lanes, n, self.backend, per_sample)
        return self._evaluations[key]

    def _failures(self, seeds: Tensor, entries: Sequence[Entry], first_bad: Tensor) -> tuple[dict[str, Any], ...]:
        rows = first_bad.tolist()  # the one read of a batch, with its result
        return tuple(
            {"seed": int(seed), "row": row - entry.base, "sigma": float(entry.table.sigma[row - entry.base])}
            for seed, entry, row in zip(seeds, entries, rows, strict=True)
            if row != NEVER
        )


def sample(
    denoiser: Denoiser,
    plan: Plan,
    seeds: Iterable[int] | Tensor,
    class_labels: sampler_inputs.Labels = None,
    *,
    batch_size: int | str = 64,
    **options: Any,
) -> Tensor:
    """Samples float32 [len(seeds), *shape]: `Sampler(denoiser, plan, batch_size, …).run(seeds, class_labels, …)`.

    Args:
        seeds: a list of seeds, e.g. range(64); one integer alone is refused, see `Sampler.run`.
        **options: keyword arguments of `Sampler` (backend, graph, dtype, …) and of `Sampler.run` (latents, progress,
        …).
    """
    of_run = inspect.signature(Sampler.run).parameters.keys() - {"self"}
    of_sampler = inspect.signature(Sampler).parameters.keys()
    sampler_inputs.check_names(options, sorted({*of_sampler, *of_run}), "rs.sample")
    run = {name: options.pop(name) for name in of_run & options.keys()}
    return Sampler(denoiser, plan, batch_size, **options).run(seeds, class_labels, **run)


def describe_failures(failures: list[dict[str, Any]]) -> str:
    """One sentence naming the first few failed samples."""
    shown = ", ".join(f"seed {f['seed']} at row {f['row']} (sigma {f['sigma']:.4g})" for f in failures[:5])
    more = f" and {len(failures) - 5} more" if len(failures) > 5 else ""
    return (
        f"{len(failures)} samples became NaN or infinite: {shown}{more}; check the network's weights, or use dtype fp32"
    )


def _reporter(callback: Callable[[Progress], None], done: int, total: int, n: int, nfe: int) -> Callable[[int], None]:
    return lambda row: callback(Progress(done + (n if row == nfe else 0), total, n, row, nfe))
