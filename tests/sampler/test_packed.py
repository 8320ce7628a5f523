"""Tables come to a device in one copy, with the bits that they have on the host."""

from __future__ import annotations

import pytest
import torch

import restart_sampling as rs
from restart_kernels import layout
from restart_sampling.models.parameterization import edm
from restart_sampling.sampler import packed, pfgmpp
from restart_sampling.sampler.packed import ALIGNMENT, Packed, sent
from restart_sampling.sampler.program import Program
from restart_sampling.sampler.table import bind

CPU = torch.device("cpu")
PLANS = (
    dict(steps=4),
    dict(steps=5, restart=[2, 2, 0.1, 0.5]),
    dict(steps=6, solver="unipc"),
    dict(steps=3, solver="seeds3"),
)
SHAPE = (2, 3, 4)


@pytest.fixture
def sends(monkeypatch):
    """What is sent, in bytes; the host's memory and the device's are two here, as they are on a GPU."""
    found, send = [], Packed.send

    def counted(self, start=0, stop=None):
        found.append(len(self._here[start:stop]))
        send(self, start, stop)

    monkeypatch.setattr(packed, "one_memory", lambda device: False)
    monkeypatch.setattr(Packed, "send", counted)
    return found


def tables(*options):
    return [bind(rs.Plan.build(**each), edm(0.5)) for each in options]


def assert_holds(program, entries):
    """The device has the rows of all entries, rounded once to its dtype."""
    for entry in entries:
        rows = slice(entry.base, entry.base + len(entry.table.coef))
        expected = torch.from_numpy(entry.table.coef).to(program.dtype)
        assert torch.equal(program.coef[rows], expected)
        assert torch.equal(program.coef[rows].signbit(), expected.signbit())  # −0 is told from 0
        assert torch.equal(program.code[rows], torch.from_numpy(entry.table.code))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 4])
def test_tables_are_one_copy_and_keep_their_bits(count, dtype, sends):
    program = Program(CPU, dtype)
    entries = program.add(*tables(*PLANS[:count]))
    assert len(sends) == 1
    assert_holds(program, entries)


def test_tables_that_come_later_leave_those_before(sends):
    program = Program(CPU, torch.float32, capacity=64)
    first = program.add(*tables(*PLANS[:2]))
    second = program.add(*tables(PLANS[2]))
    assert len(sends) == 2
    assert_holds(program, first + second)
    assert program.add(first[0].table, second[0].table) == [first[0], second[0]]
    assert len(sends) == 2  # nothing is new


def test_a_full_program_begins_again_and_a_small_one_grows(sends):
    one, two, *others = tables(dict(steps=10), dict(steps=10, rho=5.0), *PLANS)
    program = Program(CPU, torch.float32, capacity=32)
    assert program.add(one)[0].base == 0
    coef = program.coef
    again = program.add(two)
    assert (again[0].base, program.generation) == (0, 0) and program.coef is coef
    assert_holds(program, again)
    entries = program.add(one, two, *others)
    assert program.generation == 1 and len(sends) == 3
    assert_holds(program, entries)


def test_both_tables_are_contiguous_and_aligned_in_one_buffer():
    program = Program(CPU, torch.float64, capacity=5)
    assert program.coef.shape == (5, layout.NUM_COEF) and program.code.shape == (5, layout.NUM_CODE)
    assert program.coef.is_contiguous() and program.code.is_contiguous()
    assert program.coef.untyped_storage().data_ptr() == program.code.untyped_storage().data_ptr()
    assert (program.coef.data_ptr() - program.code.data_ptr()) % ALIGNMENT == 0


def image(x, sigma, class_labels=None):
    D = x / (1 + sigma.view(-1, 1, 1, 1) ** 2)
    return D if class_labels is None else D + class_labels.argmax(1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["plain", "classes", "mixed", "mixed classes", "pfgm++"])
def test_a_run_is_a_copy_of_tables_and_one_of_samples_and_draws_the_same(kind, sends, monkeypatch):
    """The second copy has the seeds and classes, and in a mixed batch the lanes and first rows too.

    Before the first row there were two copies for each table and one for each of the others: 3, 4, 11, 12 and 11 here.
    """
    classes = 5 if "classes" in kind else 0
    dimensions = 64 if kind == "pfgm++" else None
    denoiser = rs.Denoiser.from_function(image, SHAPE, augmented_dim=dimensions, label_dim=classes)
    plans = [rs.Plan.build(**options) for options in PLANS]
    seeds = list(zip(range(4), plans, strict=True)) if "mixed" in kind else range(4)
    labels = [3, 0, 4, 1] if classes else None
    sampler = rs.Sampler(denoiser, plans[1], batch_size=4)
    x = sampler.run(seeds, labels)
    # Samples of plans with different NFE finish one after the other: the lanes that are done, and those that go on.
    finishes = len({plan.nfe for plan in plans}) if "mixed" in kind else 1 if dimensions else 0
    assert len(sends) == 2 + finishes + max(finishes - 1, 0)
    assert set(sends[2:]) <= {ALIGNMENT}
    monkeypatch.undo()
    assert torch.equal(x, rs.Sampler(denoiser, plans[1], batch_size=4).run(seeds, labels))


def test_pfgmpp_tables_of_a_whole_batch_are_one_copy(sends):
    """64 samples have 64 tables: 128 copies before, 1 now."""
    (table,) = tables(PLANS[1])
    program = Program(CPU, torch.float32)
    entries = program.add(*pfgmpp.tables([table] * 64, torch.arange(64), 128))
    assert len(entries) == 64 and len(sends) == 1
    assert_holds(program, entries)


def test_tensors_of_any_dtype_are_sent_together(sends):
    tensors = [torch.arange(3), torch.tensor([7], dtype=torch.int32), torch.tensor(2.5), torch.zeros(0, 4)]
    found = sent(CPU, *tensors)
    assert len(sends) == 1
    for tensor, there in zip(tensors, found, strict=True):
        assert there.dtype == tensor.dtype and torch.equal(there, tensor)
        assert there.data_ptr() % ALIGNMENT == found[0].data_ptr() % ALIGNMENT or not len(there.view(-1))


def test_a_cpu_sends_nothing(monkeypatch):
    program = Program(CPU, torch.float32)
    monkeypatch.setattr(torch.Tensor, "pin_memory", None)
    (entry,) = program.add(*tables(PLANS[0]))
    assert_holds(program, [entry])
    seeds = torch.arange(3)
    assert sent(CPU, seeds)[0] is seeds
