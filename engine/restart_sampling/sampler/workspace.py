r"""The workspace: what a sampler makes once and uses in every run.

The backend, the executor and the network are chosen when it is made. Buffers, evaluations, slices and their threads are
made on first need.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import nn

import restart_kernels

from ..common import forked
from ..common.checks import choice, integer, shown
from ..common.devices import check_device
from ..common.errors import BackendError, RestartValueError
from ..common.turns import Turns
from ..models.denoiser import Denoiser
from ..models.network_output import FLOATS, Checked
from ..plan.plan import Plan
from ..plan.segments import Span
from .autobatch import LARGEST, choose_batch
from .conditions import check_guidance
from .edits import Edits
from .executors import (
    Conditions,
    Evaluation,
    Executor,
    Lanes,
    Needs,
    Network,
    Observer,
    Observers,
    Slices,
    ThreadExecutor,
    make_executor,
    threads,
)
from .executors.buckets import bucket
from .inputs import check_plan
from .network import DTYPES, PreparedNetwork, prepare
from .program import Entry, Program, Tables
from .table import Table

NO_EDITS = Edits()


class Workspace:
    """What a sampler makes once; the arguments are those of `Sampler`.

    Attributes:
        network: F, as the executors call it; `guide` is that of the other network of autoguidance, or None.
        networks: one or both of them.
        net_dtype: dtype of the network's input.
        executor: what launches evaluations; slices of a batch have one of their own.
        pads: whether a batch smaller than batch_size is padded with idle lanes to the next larger bucket.
        program: the device table.
        tables: the tables of plans on this network.
        conditions: the buffers of shared conditions, and the nulls of the others.
        turns: one run at a time uses the buffers.
        observers: are told of the parts of every evaluation.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guided: bool,
        batch_size: int | str,
        backend: str,
        graph: str,
        compile: str,
        device: str | torch.device | None,
        dtype: str,
        register_dtype: torch.dtype,
        batch_invariant: bool,
    ) -> None:
        choice("dtype", dtype, DTYPES, error=BackendError)
        if str(register_dtype) not in ("torch.float32", "torch.float64"):
            raise BackendError(f"register_dtype must be torch.float32 or torch.float64, got {shown(register_dtype)}")
        self.register_dtype, self.batch_invariant = register_dtype, batch_invariant
        self.device = denoiser.device if device is None else check_device(device)
        forked.settle()
        exact = register_dtype == torch.float64  # the oracle: float64 throughout
        if exact:
            wide = {name: spec.widened() for name, spec in denoiser.conditions.items()}
            denoiser = replace(denoiser, conditions=wide)
        self.denoiser = denoiser
        try:
            self.backend = restart_kernels.resolve_backend(backend, self.device, register_dtype)
        except restart_kernels.KernelError as error:
            raise BackendError(str(error)) from None
        self.executor: Executor = make_executor(graph, self.device, self.backend)
        self.network: Network
        if exact:
            self.network, self.net_dtype = _exact_network(denoiser, self.device), torch.float64
        else:
            prepared = prepare(denoiser, device=self.device, dtype=dtype, compile=compile)
            self.network, self.net_dtype = prepared, prepared.net_dtype
            if prepared.module is not None and denoiser.device != self.device:
                denoiser = replace(denoiser, network=prepared.module)  # what runs, where it runs
        self.guide: Network | None = None
        if denoiser.guide is not None and exact:
            self.guide = _exact_network(denoiser.guide, self.device)
        elif denoiser.guide is not None:
            self.guide = prepared = prepare(denoiser.guide, device=self.device, dtype=dtype, compile=compile)
            if prepared.module is not None and denoiser.guide.device != self.device:
                denoiser = replace(denoiser, guide=replace(denoiser.guide, network=prepared.module))
        if isinstance(batch_size, str) and batch_size == "auto":
            batch_size = choose_batch(denoiser, LARGEST, self.device, dtype=DTYPES[dtype], guided=guided)
        self.batch_size = integer("batch_size", batch_size, 1, also=" or 'auto'", error=RestartValueError)
        self.networks = (self.network,) if self.guide is None else (self.network, self.guide)
        self.pads = self.executor.pads or any(getattr(network, "compiled", False) for network in self.networks)
        self.observers = Observers()
        self.turns = Turns()
        self.program = Program(self.device, register_dtype)
        self.tables = Tables(denoiser.parameterization)
        self.needs = Needs(guided)
        told = None if denoiser.guide is None else denoiser.guide.conditions
        self.conditions = Conditions(denoiser.conditions, self.device, told)
        self._lanes: Lanes | None = None
        self._evaluations: dict[tuple[int, bool], Evaluation] = {}
        self._slices: dict[tuple[int, int], Slices] = {}
        self._pools: dict[int, ThreadExecutor] = {}

    def describe(self) -> str:
        """Return what runs, in one line, e.g. "native on cpu, graph off, network fp32, eager, contiguous"."""
        network, *guide = (n.describe() if isinstance(n, PreparedNetwork) else "float64" for n in self.networks)
        told = "".join(f", guide {how}" for how in guide)
        return f"{self.backend} on {self.device}, graph {self.executor.describe()}, network {network}{told}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What runs otherwise than asked, one line each."""
        slow = ""
        if not restart_kernels.get_backend(self.backend).fused and self.register_dtype == torch.float32:
            slow = restart_kernels.why_not(restart_kernels.fastest_backend(self.device), self.device) or ""
        if slow:
            slow = f"the update of each row runs on the slow {self.backend} backend: {slow}"
        networks = dict.fromkeys(note for network in self.networks for note in getattr(network, "notes", ()))
        notes = (slow, *networks, self.executor.note, forked.note())
        return tuple(note for note in notes if note)

    def observed(self, observer: Observer) -> AbstractContextManager[None]:
        """Return a context in which `observer` is told of the parts of every evaluation.

        Raises:
            BackendError: the executor replays graphs, which call no Python.
        """
        if self.executor.name != "off" and not self.executor.note:
            raise BackendError(
                f"graph={self.executor.name!r} replays graphs, which call no Python; use graph='off', or trace"
            )
        return self.observers.attached(observer)

    def bind(self, plan: Plan, edits: Edits = NO_EDITS) -> Table:
        """Return the plan's table for this network, with the edits of a run."""
        if check_plan(plan).config.guided:
            check_guidance(self.denoiser, plan.config.guidance_scale)
        return self.tables.get(plan, edits.variant, edits.begin)

    def entries(self, *tables: Table) -> list[Entry]:
        """Return the places of the tables in the program, and let go of buffers that do not fit them."""
        generation = self.program.generation
        entries = self.program.add(*tables)
        needs = self.needs.with_tables(tables)
        if needs != self.needs:
            self.needs, self._lanes = needs, None
            self._evaluations, self._slices = {}, {}
        if self.program.generation != generation:
            self._evaluations, self._slices = {}, {}
        return entries

    @property
    def lanes(self) -> Lanes:
        """The buffers of a whole batch; the entries asked for last say what they need."""
        if self._lanes is None:
            self._lanes = self._make_lanes(self.batch_size)
        return self._lanes

    def _make_lanes(self, size: int) -> Lanes:
        dtypes = self.net_dtype, self.register_dtype
        return Lanes.make(size, self.denoiser.shape, self.conditions, self.needs, self.device, *dtypes)

    def batch(self, n: int) -> tuple[Evaluation | Slices, Executor]:
        """Return a batch of n samples of one plan, and what launches it."""
        slices = self.slices(n)
        if slices is None:
            return self.evaluation(self.lanes_for(n)), self.executor
        return slices, self._threads()

    def evaluation(self, n: int, per_sample: bool = False) -> Evaluation:
        """Return the evaluation of n lanes, with a cursor for each or one for all."""
        key = (n, per_sample)
        if key not in self._evaluations:
            for network in self.networks:
                if isinstance(network, PreparedNetwork):
                    network.expect(n)
                    if self.needs.guided and self.guide is None:
                        network.expect(2 * n)
            self._evaluations[key] = self._evaluation(self.lanes, n, per_sample)
        return self._evaluations[key]

    def _evaluation(self, lanes: Lanes, n: int, per_sample: bool = False) -> Evaluation:
        return Evaluation(self.network, self.program, lanes, n, self.backend, per_sample, self.observers, self.guide)

    def prepare_mixed(self, n: int, entries: Sequence[Entry], span: str = "mixed") -> Evaluation:
        """Return the evaluation of n lanes with a cursor for each, ready to run any number of the plans' rows."""
        evaluation = self.evaluation(n, per_sample=True)
        longest = max(entries, key=lambda entry: entry.nfe)
        self.executor.prepare(evaluation, longest, open_ended(span, entries))
        return evaluation

    def lanes_for(self, n: int) -> int:
        """Return the lanes that a batch of n samples runs on."""
        if not self.pads:
            return n
        return self.batch_size if self.batch_invariant else bucket(n, self.batch_size)

    def slices(self, n: int) -> Slices | None:
        """Return the batch of n samples in slices, one for a thread; None if a network cannot run in several."""
        concurrent = all(getattr(network, "concurrent", False) for network in self.networks)
        if self.device.type != "cpu" or self.pads or not concurrent:
            return None
        parts = threads.count(n, torch.get_num_threads())
        if parts == 1 and not self.batch_invariant:
            return None
        if (n, parts) not in self._slices:
            sizes = threads.sizes(n, parts)
            self._slices[n, parts] = Slices([self._evaluation(self._make_lanes(size), size) for size in sizes])
        return self._slices[n, parts]

    def _threads(self) -> ThreadExecutor:
        total = torch.get_num_threads()
        if total not in self._pools:
            slices = threads.count(self.batch_size, total)
            self._pools[total] = ThreadExecutor(slices, total, 1 if self.batch_invariant else None)
        return self._pools[total]


def open_ended(name: str, entries: Sequence[Entry]) -> tuple[Span, ...]:
    """Return spans that stand for any number of rows of these plans: one for each kind of rows they have."""
    kinds = sorted({int(kind) for entry in entries for kind in entry.table.kinds})
    return tuple(Span(name, max(entry.nfe for entry in entries), kind) for kind in kinds)


def _exact_network(denoiser: Denoiser, device: torch.device) -> Checked:
    """Return the network as it is, on `device`, for float64 registers."""
    floats = {str(p.dtype) for p in denoiser.parameters if p.is_floating_point()}
    if stored := sorted(floats - set(map(str, FLOATS))):
        raise BackendError(
            f"float64 registers run the network as it is, and its weights are {', '.join(stored)}; "
            "convert it with network.double() first"
        )
    network = denoiser.network
    if isinstance(network, nn.Module) and denoiser.device != device:
        network = copy.deepcopy(network).to(device)
    return Checked(network)
