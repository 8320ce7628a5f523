"""Samplers that replay captures: tapes on a CPU, CUDA graphs on a GPU (tape.py), and the eager ones beside them."""

from __future__ import annotations

import pytest

import restart_sampling as rs
from restart_sampling.sampler.executors.graph import GraphExecutor

SHAPE = (3, 4, 5)
PLAN = dict(steps=6, restart=[[3, 2, 0.1, 0.5], [2, 3, 1.0, 5.0]])


def denoiser(label_dim=0):
    """Elementwise, so that its bits do not depend on the batch."""

    def fn(x, sigma, class_labels=None):
        shift = 0.0 if class_labels is None else class_labels[:, :1].view(-1, 1, 1, 1)
        return (x + shift) / (1 + sigma.view(-1, 1, 1, 1) ** 2)

    return rs.Denoiser.from_function(fn, shape=SHAPE, label_dim=label_dim)


def captured(mode, capture, device, plan=None, label_dim=0, batch_size=4):
    """A sampler that replays what `capture` captures."""
    plan = plan or rs.Plan.build(**PLAN)
    sampler = rs.Sampler(denoiser(label_dim), plan, batch_size=batch_size, graph="off", device=device)
    return with_graph(sampler, mode, capture)


def with_graph(sampler, mode, capture, **options):
    """The same sampler, replaying what `capture` captures."""
    if mode == "while" and not hasattr(capture, "until_idle"):
        pytest.skip("graph='while' needs cuda-bindings")
    sampler.workspace.executor, sampler.workspace.pads = GraphExecutor(mode, capture, **options), True
    return sampler


def eager(plan, device, label_dim=0, **options):
    return rs.Sampler(denoiser(label_dim), plan, batch_size=4, graph="off", device=device, **options)
