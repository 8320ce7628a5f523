r"""The sampler: denoiser × plan × executor.

`Sampler` binds a plan to a network and draws any number of samples. Sample N depends on seed N alone: its noise does so
to the last bit, whatever the batch, the plans beside it and the executor. `sample` (one_call.py) is the one-line form.
The parts are workspace.py (network, executor and buffers, made once), runs.py (one request for samples) and results.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..common import progress_bar
from ..common.errors import NonFiniteError
from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from . import inputs
from .conditions import Conditions
from .executors import Executor, Network, Observer
from .inputs import Rows, Seeds
from .labels import Labels
from .results import Batch, Progress, TracedRow, describe_failures, joined
from .runs import Run, warm_up
from .workspace import Workspace


class Sampler:
    """Draws samples of `denoiser` by `plan`.

    Args:
        denoiser: what `rs.load` or `Denoiser.from_function` gives. Its network is neither changed nor moved.
        plan: what `rs.Plan.build` or `rs.preset` gives. `sampler.plan` is the plan as it runs on this network.
        batch_size: samples per network call, or "auto": from the network's activations (`autobatch.py`).
        backend: "auto", "reference", "triton" or "native": the implementation of the fused update.
        graph: "auto", "off", "step", "loop", "trajectory" or "while" (experimental): how evaluations are launched, see
            `executors/graph.py`; "auto" is "loop" on CUDA and "off" elsewhere. Under graphs or torch.compile a batch
            smaller than batch_size runs on the next larger of 1, 2, 4, … lanes, each made ready on first need.
        compile: "auto", "on" or "off": whether torch.compile compiles the network, see `compiled.py`.
        device: default: where the network is.
        dtype: network precision, "fp32", "tf32", "bf16" or "fp16" (registers stay float32).
        register_dtype: torch.float64 runs everything in float64 on the reference backend: the oracle for others.
        batch_invariant: under graphs or torch.compile, every batch runs on batch_size lanes. On a CPU, a network that
            can be sliced always runs with one thread for each slice: with 8 samples or more at a time, oneDNN then
            gives a sample the same bits in any batch. Slower where cores outnumber the slices.

    Raises RestartError for anything that cannot run, before any network call.
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
        self.denoiser = inputs.check_denoiser(denoiser)
        guided, options = inputs.check_plan(plan).config.guided, (device, dtype, register_dtype, batch_invariant)
        self.workspace = Workspace(denoiser, guided, batch_size, backend, graph, compile, *options)
        self.device, self.backend = self.workspace.device, self.workspace.backend
        self.batch_size, self.net_dtype = self.workspace.batch_size, self.workspace.net_dtype
        self.set_plan(plan)

    def set_plan(self, plan: Plan) -> None:
        """Go on with another plan. Buffers, compiled network and captured graphs stay: only the table changes."""
        self.table = self.workspace.bind(plan)
        self.plan = self.table.plan

    @property
    def network(self) -> Network:
        """F as the executors call it, a `PreparedNetwork` unless registers are float64."""
        return self.workspace.network

    @property
    def executor(self) -> Executor:
        """What launches evaluations."""
        return self.workspace.executor

    @property
    def notes(self) -> tuple[str, ...]:
        """What runs otherwise than asked, one line each: a capture that failed, a network that was not compiled."""
        return self.workspace.notes

    def __repr__(self) -> str:
        return f"Sampler({self.denoiser.name!r}, {self.plan!r}, batch_size={self.batch_size}, {self.describe()})"

    def describe(self) -> str:
        """Return what runs, in one line, e.g. "native on cpu, graph off, network fp32, eager, contiguous"."""
        return self.workspace.describe()

    def warmup(self, n: int | None = None) -> Sampler:
        """Compile and capture what a run of `n` samples (default: batch_size) needs, instead of in the run.

        Runs of (seed, plan) pairs compile and capture other batch sizes on their way.
        """
        warm_up(self.workspace, self.table, n)
        return self

    def run(
        self,
        seeds: Seeds,
        class_labels: Labels = None,
        *,
        conditions: Conditions = None,
        latents: Tensor | None = None,
        callback: Callable[[Progress], None] | None = None,
        callback_fields: Sequence[str] = (),
        progress: bool = False,
    ) -> Tensor:
        """Return samples float32 [len(seeds), *shape], in the order of `seeds`.

        Args:
            seeds: one integer in [0, 2^63) per sample, as a list, range, array, tensor or text such as "0-63,100"; or
                (seed, plan) pairs: samples of different plans then share batches, and a lane that finishes takes the
                next sample (continuous batching); (seed, plan, {name: value}) has conditions of that sample besides.
                One integer n alone is refused: it may mean range(n) or [n].
            class_labels: a class for all, or one per seed, by number or name, or rows [n, classes] or [1, classes],
                which the network gets as they are: one-hot, soft, any finite numbers. Default: drawn from the seed.
            conditions: values by name, [n, *shape], or [*shape] for all; of a shared condition [*shape].
            latents: standard-normal start [len(seeds), *shape] instead of the seed's draw 0.
            callback: called on the host with a :class:`Progress` after every evaluation, or every replay of a graph.
            callback_fields: which of "x", "D" and "seeds" the Progress has too, as in :class:`TracedRow`. The host then
                launches every evaluation, which is slower under graphs and changes no bit.
            progress: show a bar on stderr.

        Raises:
            NonFiniteError: some samples became NaN or infinite; `.failures` names them, `.samples` holds the result.
        """
        inputs.fields(callback_fields, callback)
        request = seeds, class_labels, conditions, latents
        with progress_bar.shown(progress, callback) as follow:
            run = Run(self.workspace, self.table, request, follow, callback_fields)
            batches = [batch for batch in run if isinstance(batch, Batch)]
        x = joined(batches, self.denoiser.shape, self.device)
        if failures := [failure for batch in batches for failure in batch.failures]:
            raise NonFiniteError(describe_failures(failures), failures, x)
        return x

    def iterate(
        self,
        seeds: Seeds,
        class_labels: Labels = None,
        *,
        conditions: Conditions = None,
        latents: Tensor | None = None,
        callback: Callable[[Progress], None] | None = None,
        callback_fields: Sequence[str] = (),
    ) -> Iterator[Batch]:
        """Yield what `run` returns batch by batch, for results that should not be held all at once.

        Each batch reports its failures, which raise nothing. Of (seed, plan) pairs a batch is what finished together;
        `Batch.index` says where it stands in the request. A run of pairs must end before another run of this sampler
        begins; other runs may be mixed, and each keeps the plan it began with. Raises RestartValueError inside a run.
        """
        request = seeds, class_labels, conditions, latents
        for found in Run(self.workspace, self.table, request, callback, callback_fields):
            if isinstance(found, Batch):
                yield found

    def trace(
        self,
        seeds: Seeds,
        class_labels: Labels = None,
        *,
        rows: Rows = None,
        conditions: Conditions = None,
        latents: Tensor | None = None,
    ) -> Generator[TracedRow, None, Tensor]:
        """Draw samples and yield, row by row, what was computed: (row, sigma, x, D, noise), see :class:`TracedRow`.

        It runs as `run` does, on the same executor, and gives the same samples to the last bit: they are the value of
        the generator, `x = yield from sampler.trace(…)`. NaN and infinite values raise nothing. The trace must end
        before another run of this sampler begins.

        Args:
            rows: the rows to show, from 0 as in `plan.rows`; default: all. Rows that are not shown run as always.
            others: as of `run`; traced rows of different plans, or batches, come one by one.
        """
        batches, request = [], (seeds, class_labels, conditions, latents)
        for found in Run(self.workspace, self.table, request, traced=True, rows=rows):
            if isinstance(found, TracedRow):
                yield found
            else:
                batches.append(found)
        return joined(batches, self.denoiser.shape, self.device)

    def observed(self, observer: Observer) -> AbstractContextManager[None]:
        """Return a context in which `observer` is told of every evaluation; BackendError where graphs are replayed."""
        return self.workspace.observed(observer)
