"""The sampler: batches, seeds, labels, latents, non-finite samples, what it refuses, and what it does not allocate."""

from __future__ import annotations

import pytest
import torch
from support import problems
from support.allocations import Allocations
from support.replays import with_graph
from support.tape import make_capture

import restart_sampling as rs

SHAPE = (3, 5, 7)
PLAN = dict(steps=6, restart=[3, 2, 0.3, 2.0], sigma_min=0.02, sigma_max=20.0)


def make(**options):
    denoiser = rs.Denoiser.from_function(problems.mixture(SHAPE), shape=SHAPE)
    return rs.Sampler(denoiser, rs.Plan.build(**{**PLAN, **options.pop("plan", {})}), **options)


def elementwise(x, sigma, class_labels=None):
    """A denoiser whose rows cannot feel each other, to the last bit."""
    s2 = sigma.view(-1, 1, 1, 1) ** 2
    shift = 0 if class_labels is None else (class_labels @ torch.arange(float(class_labels.shape[1]), device=x.device))
    return x / (1 + s2) + (shift.view(-1, 1, 1, 1) if class_labels is not None else 0)


def pointwise(label_dim=0):
    return rs.Denoiser.from_function(elementwise, shape=SHAPE, label_dim=label_dim, name="pointwise")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_images_do_not_depend_on_the_batch(batch_size, device):
    """The same network output gives the same bits, whatever the batch size and the order of the seeds."""
    plan = rs.Plan.build(**PLAN)
    seeds = [5, 0, 2**63 - 1, 7, 2**32, 1]
    want = rs.Sampler(pointwise(), plan, batch_size=6, device=device).run(seeds)
    got = rs.Sampler(pointwise(), plan, batch_size=batch_size, device=device).run(seeds[::-1])
    assert torch.equal(got.flip(0), want)


def test_backends_are_bit_equal(device):
    """Triton (on the CPU: its interpreter) and the reference draw the same images to the last bit."""
    plan = rs.Plan.build(**PLAN, s_noise=1.003)
    runs = [
        rs.Sampler(pointwise(), plan, backend=backend, device=device).run(range(3))
        for backend in ("reference", "triton")
    ]
    assert torch.equal(*runs)


def test_a_mixture_agrees_to_rounding_across_batches(device):
    seeds = range(9)
    a, b = make(batch_size=9, device=device).run(seeds), make(batch_size=2, device=device).run(seeds)
    assert (a - b).abs().max() <= 2e-6 * a.abs().max()


def test_no_seeds_give_an_empty_result():
    assert make().run([]).shape == (0, *SHAPE)


def test_sample_is_the_one_line_form():
    denoiser, plan = pointwise(), rs.Plan.build(**PLAN)
    assert torch.equal(rs.sample(denoiser, plan, seeds=range(3)), rs.Sampler(denoiser, plan).run([0, 1, 2]))


def test_latents_replace_draw_0(device):
    sampler = make(device=device)
    seeds = [3, 4]
    latents = rs.noise.normal(seeds, 0, SHAPE, device=device)
    assert torch.equal(sampler.run(seeds, latents=latents), sampler.run(seeds))
    strided = latents.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(sampler.run(seeds, latents=strided), sampler.run(seeds))


def test_labels_are_drawn_from_the_seed(device):
    """Image N has the same class in every batch; the classes are uniform."""
    labels = rs.noise.class_labels(range(10_000), 10)
    counts = torch.bincount(labels, minlength=10)
    assert (counts - 1000).abs().max() < 5 * 30
    sampler = rs.Sampler(pointwise(10), rs.Plan.build(**PLAN), batch_size=4, device=device)
    drawn = torch.cat([batch.labels for batch in sampler.iterate(range(10))])
    assert torch.equal(drawn, labels[:10])
    assert torch.equal(sampler.run(range(10)), sampler.run(range(10), labels[:10]))


def test_one_class_for_all_and_one_per_seed():
    sampler = rs.Sampler(pointwise(10), rs.Plan.build(**PLAN))
    assert torch.equal(sampler.run([1, 2], 7), sampler.run([1, 2], [7, 7]))
    assert not torch.equal(sampler.run([1, 2], 7), sampler.run([1, 2], [7, 8]))


def test_guidance_mixes_both_outputs(device):
    """F = F_u + w(F_c − F_u), with a denoiser for which the mix has a closed form."""
    denoiser, w = pointwise(4), 3.0
    guided = rs.Sampler(denoiser, rs.Plan.build(**PLAN, guidance_scale=w), device=device).run([0, 1], 2)

    def mixed(x, sigma):
        zero = torch.zeros(len(x), 4, device=x.device)
        u, c = (
            elementwise(x, sigma, zero),
            elementwise(x, sigma, zero + torch.tensor([0.0, 0, 1, 0], device=x.device)),
        )
        return u + w * (c - u)

    plain = rs.Denoiser.from_function(mixed, shape=SHAPE)
    want = rs.Sampler(plain, rs.Plan.build(**PLAN), device=device).run([0, 1])
    assert torch.equal(guided, want)


def test_guidance_of_a_partial_batch_has_no_labels_of_the_batch_before(device):
    plan = rs.Plan.build(**PLAN, guidance_scale=2.0)
    sampler = rs.Sampler(pointwise(4), plan, batch_size=4, device=device)
    whole = sampler.run(range(6), 3)
    assert torch.equal(whole[4:], rs.Sampler(pointwise(4), plan, batch_size=2, device=device).run([4, 5], 3))


def test_guidance_scale_1_is_off():
    sampler = rs.Sampler(pointwise(4), rs.Plan.build(**PLAN, guidance_scale=1.0))
    sampler.run([0])
    assert len(sampler.workspace.lanes.net_in) == sampler.batch_size


@pytest.mark.parametrize("graph", ["auto", "replayed"])
def test_a_bad_sample_is_named_and_alone(graph, device):
    """NaN in one row at one evaluation: that seed, row and sigma are named, and no other sample changes.

    The network decides on the device, by level and lane, so that captures and their checks see what eager launches see.
    """
    plan = rs.Plan.build(**PLAN)
    bad_sigma = torch.tensor(plan.rows[3].sigma, dtype=torch.float32, device=device)
    assert [row.sigma for row in plan.rows].index(plan.rows[3].sigma) == 3
    on = torch.ones((), dtype=torch.bool, device=device)

    def poisoned(x, sigma):
        out = elementwise(x, sigma).clone()
        bad = on & (sigma.view(-1)[0] == bad_sigma)
        out[1, 0, 2, 3] = torch.where(bad, torch.nan, out[1, 0, 2, 3])
        return out

    def make(fn):
        den = rs.Denoiser.from_function(fn, shape=SHAPE)
        sampler = rs.Sampler(den, plan, batch_size=4, device=device)
        return sampler if graph == "auto" else with_graph(sampler, "loop", make_capture(device))

    good = make(elementwise).run([10, 11, 12])
    sampler = make(poisoned)
    with pytest.raises(rs.NonFiniteError, match="seed 11 at row 3") as caught:
        sampler.run([10, 11, 12])
    (failure,) = caught.value.failures
    assert failure == {"seed": 11, "row": 3, "sigma": pytest.approx(plan.rows[3].sigma)}
    assert torch.equal(caught.value.samples[[0, 2]], good[[0, 2]])
    on.zero_()
    assert torch.equal(sampler.run([10, 11, 12]), good)  # the flag does not stick
    assert sampler.executor.note == ""


def test_progress_counts_every_evaluation():
    seen = []
    sampler = make(batch_size=2)
    sampler.run(range(3), callback=seen.append)
    nfe = sampler.plan.nfe
    assert [p.row for p in seen] == [*range(nfe)] * 2  # as plan.rows counts
    assert [p.evaluations for p in seen] == [*range(1, nfe + 1)] * 2
    assert (seen[0].x, seen[0].D, seen[0].seeds) == (None, None, None)
    assert (seen[-1].done, seen[-1].total, seen[-1].batch) == (3, 3, 1)
    assert seen[nfe - 2].done == 0


@pytest.mark.parametrize("per_sample", [False, True])
@torch.inference_mode()
def test_no_allocation_and_no_read_per_evaluation(per_sample, device):
    """With the real step of the backend that this device runs by default, and a network that makes nothing itself.

    The PyTorch reference makes temporaries; it is the statement that the others are checked against, and runs by
    default only where nothing else can."""
    still = torch.zeros(2, *SHAPE, device=device)
    denoiser = rs.Denoiser.from_function(lambda x, sigma: still, shape=SHAPE)
    sampler = rs.Sampler(denoiser, rs.Plan.build(**PLAN), batch_size=2, graph="off", device=device)
    if sampler.backend == "reference":
        pytest.skip("the native library is not built here, and the reference step makes temporaries")
    expected = sampler.run([0, 1])
    evaluation = sampler.workspace.evaluation(2, per_sample)
    (entry,) = sampler.workspace.entries(sampler.table)
    evaluation.load(entry, torch.arange(2, device=device), None)
    with Allocations() as seen:
        sampler.executor.run(evaluation, entry.spans)
    assert evaluation.machine.cursor.tolist() == [-1] * len(evaluation.machine.cursor)  # all of it ran
    assert seen.made == []
    assert seen.synced == []
    assert torch.equal(evaluation.machine.x, expected)


REFUSED = {
    "denoiser": (lambda: rs.Sampler(lambda x: x, rs.Plan.build()), "must be a Denoiser"),
    "plan": (lambda: rs.Sampler(pointwise(), "heun"), "must be a Plan"),
    "batch_0": (lambda: make(batch_size=0), "batch_size must be an integer ≥ 1"),
    "batch_negative": (lambda: make(batch_size=-1), "batch_size"),
    "backend": (lambda: make(backend="cuda"), "cuda"),
    "graph": (lambda: make(graph="loops"), "graph must be one of auto, off, step, loop, trajectory, while"),
    "compile": (lambda: make(compile="yes"), "compile must be one of"),
    "dtype": (lambda: make(dtype="int8"), "dtype must be one of"),
    "device": (lambda: make(device="cuda:7"), "CUDA devices are visible"),
    "device_name": (lambda: make(device="gpu"), "use cpu, cuda or cuda:N"),
    "seed_negative": (lambda: make().run([-1]), "seed must be ≥ 0"),
    "seed_big": (lambda: make().run([2**63]), "seed must be ≥ 0 and < 2\\^63"),
    "seed_float": (lambda: make().run([0.5]), "seed must be an integer"),
    "seed_bool": (lambda: make().run([True]), "seed must be an integer"),
    "seed_tensor": (lambda: make().run(torch.tensor([1.0])), "integer tensor"),
    "class_without_classes": (lambda: make().run([0], 3), "has no classes"),
    "class_range": (lambda: rs.Sampler(pointwise(10), rs.Plan.build()).run([0], 10), "classes 0..9"),
    "class_negative": (lambda: rs.Sampler(pointwise(10), rs.Plan.build()).run([0], [-1]), "class -1"),
    "class_count": (lambda: rs.Sampler(pointwise(10), rs.Plan.build()).run([0, 1, 2], [1, 2]), "2 class_labels"),
    "class_float": (lambda: rs.Sampler(pointwise(10), rs.Plan.build()).run([0], torch.tensor([1.5])), "integers"),
    "guidance": (lambda: make(plan=dict(guidance_scale=2.0)), "needs a class-conditional network"),
    "latents_shape": (lambda: make().run([0], latents=torch.zeros(1, 3, 7, 5)), "latents must have shape"),
    "latents_dtype": (lambda: make().run([0], latents=torch.zeros(1, *SHAPE, dtype=torch.int64)), "floating tensor"),
    "latents_nan": (lambda: make().run([0], latents=torch.full((1, *SHAPE), float("nan"))), "NaN"),
    "shape": (lambda: rs.Denoiser.from_function(elementwise, shape=(0, 3)), "positive integers"),
    "function": (lambda: rs.Denoiser.from_function(3, shape=(1,)), "needs a function"),
    "noise_draw": (lambda: rs.noise.normal([0], draw=-1, shape=(2,)), "draw must be an integer ≥ 0"),
    "noise_shape": (lambda: rs.noise.normal([0], shape=(-2,)), "shape must be"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_a_sentence(name):
    call, message = REFUSED[name]
    with pytest.raises(rs.RestartError, match=message):
        call()


def test_latents_that_require_grad_are_used_without_it():
    latents = rs.noise.normal([0], 0, SHAPE).requires_grad_()
    assert not make().run([0], latents=latents).requires_grad
