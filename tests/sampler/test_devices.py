"""Devices: "cuda" means one with an index, every run makes its own current, and workers take the GPU of their local
rank.

What CUDA would do is emulated: two visible GPUs of which the second is current, and a context that notes who is
current."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch

import restart_sampling as rs
from restart_sampling.common import devices
from restart_sampling.common.devices import check_device, made_current, on_own_device, select_device
from restart_sampling.common.errors import BackendError
from restart_sampling.sampler import edits as sampler_edits


class Process:
    """A process that sees `gpus` GPUs: which is current, and every change of it."""

    def __init__(self, gpus, current=0):
        self.gpus, self.current, self.selected = gpus, current, []

    def select(self, device):
        self.current = torch.device(device).index
        self.selected.append(self.current)

    @contextlib.contextmanager
    def device(self, device):
        before, self.current = self.current, torch.device(device).index
        try:
            yield
        finally:
            self.current = before


@pytest.fixture
def process(monkeypatch):
    made = Process(2, current=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: made.gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: made.gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: made.current)
    monkeypatch.setattr(torch.cuda, "set_device", made.select)
    monkeypatch.setattr(torch.cuda, "device", made.device)
    return made


def test_a_cuda_device_always_has_an_index(process):
    assert check_device("cuda") == torch.device("cuda:1")
    assert check_device(torch.device("cuda", 0)) == torch.device("cuda:0")
    assert check_device("cpu") == torch.device("cpu")
    process.current = 0
    assert check_device("cuda") == torch.device("cuda:0")


@pytest.mark.parametrize("device", ["cuda:2", "cuda:17", "tpu", "xla:0", [], 1.5, "mps"])
def test_what_is_no_device_is_refused_in_one_sentence(process, device):
    with pytest.raises(BackendError, match="use cpu"):
        check_device(device)


def test_without_a_gpu_cuda_is_refused(process):
    process.gpus = 0
    with pytest.raises(BackendError, match="0 CUDA devices are visible"):
        check_device("cuda")
    assert select_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("asked", "local_rank", "gpus", "wanted"),
    [
        (None, 0, 2, 0),
        (None, 1, 2, 1),
        ("cuda", 1, 2, 1),
        (torch.device("cuda"), 1, 2, 1),
        ("cuda:0", 1, 2, 0),  # asked for by name: all workers share it
        (None, 3, 1, 0),  # a launcher that shows each worker its own GPU alone
        ("cuda", 5, 4, 1),  # more workers than GPUs
    ],
)
def test_workers_take_the_gpu_of_their_local_rank(process, asked, local_rank, gpus, wanted):
    process.gpus = gpus
    assert select_device(asked, local_rank) == torch.device("cuda", wanted)
    assert process.selected == [wanted]


def test_a_cpu_selects_nothing(process):
    assert select_device("cpu", 1) == torch.device("cpu")
    assert process.selected == []


def test_a_generator_runs_on_its_own_device_and_its_caller_does_not(process):
    class Two:
        device = torch.device("cuda:0")

        def __init__(self):
            self.closed = False

        @on_own_device
        def iterate(self, n):
            try:
                for i in range(n):
                    yield i, process.current
            finally:
                self.closed = True

    two, seen = Two(), []
    for i, current in two.iterate(3):
        seen.append((i, current, process.current))
    assert seen == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
    assert two.closed
    two.closed = False
    stopped = two.iterate(3)
    next(stopped)
    stopped.close()
    assert two.closed
    assert process.current == 1


def test_a_generator_that_fails_leaves_the_device_as_it_was(process):
    class Fails:
        device = torch.device("cuda:0")

        @on_own_device
        def iterate(self):
            yield 1
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(Fails().iterate())
    assert process.current == 1


def test_every_run_of_a_sampler_passes_the_guard(monkeypatch):
    """Plain batches, pairs with plans and PFGM++ alike; the network sees the guarded device."""
    current: list[str] = []

    @contextlib.contextmanager
    def guard(device):
        current.append(str(device))
        try:
            yield
        finally:
            current.pop()

    monkeypatch.setattr(devices, "made_current", guard)
    seen = []

    def network(x, sigma):
        seen.append(tuple(current))
        return x / (1 + sigma.view(-1, 1) ** 2)

    plan = rs.Plan.build(steps=3)
    denoiser = rs.Denoiser.from_function(network, shape=(4,))
    sampler = rs.Sampler(denoiser, plan, batch_size=2)
    for seeds in (range(3), [(0, plan), (1, plan)]):
        sampler.run(seeds)
        for _ in sampler.iterate(seeds):
            assert current == []
    assert len(seen) >= 20
    assert set(seen) == {("cpu",)}


def test_the_current_device_is_left_alone_for_a_cpu(process):
    with made_current(torch.device("cpu")):
        assert process.current == 1
    with made_current(torch.device("cuda:0")):
        assert process.current == 0
    assert process.current == 1


def test_latents_of_the_current_gpu_are_those_of_cuda(process):
    """The sampler's device is the one that tensors made on "cuda" name."""
    device = check_device("cuda")

    class Latents(torch.Tensor):
        device = torch.device("cuda:1")

    given = torch.zeros(2, 4).as_subclass(Latents)
    assert sampler_edits.latents(given, 2, (4,), device) is not None
    Latents.device = torch.device("cuda:0")
    with pytest.raises(rs.RestartError, match="latents are on cuda:0, the sampler on cuda:1"):
        sampler_edits.latents(given, 2, (4,), device)


@pytest.mark.parametrize(("given", "wanted"), [([], 1), (["--device", "cuda"], 1), (["--device", "cuda:0"], 0)])
def test_the_command_selects_the_gpu_of_its_worker(process, given, wanted, tmp_path, monkeypatch):
    """Under torchrun: with and without --device cuda."""
    assert drawn_on(["--batch", "4", *given], tmp_path, monkeypatch) == f"cuda:{wanted}"
    assert process.selected == [wanted]


def test_a_repeated_run_does_not_put_all_workers_on_the_recorded_gpu(process, tmp_path, monkeypatch):
    plan = rs.Plan.build(steps=3)
    record = {
        "model": "fashion-mnist",
        "seeds": "0-3",
        "batch": 4,
        "dtype": "fp32",
        "backend": "auto",
        "device": "cuda:0",
        "class": None,
        "model_sha256": None,
        "plan": plan.config.to_dict(),
        "plan_digest": plan.digest,
        "nfe": plan.nfe,
        "format": "png",
        "pixels": "uint8",
        "shard_size": 1000,
        "subfolders": False,
        "noise": "philox-v1",
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert drawn_on(["--repeat", str(tmp_path / "run.json")], tmp_path, monkeypatch) == "cuda:1"
    assert process.selected == [1]


def drawn_on(arguments, folder, monkeypatch):
    """The device that `generate` gives to the job of worker 1 of 2."""
    from restart_sampling.cli.app import main
    from restart_sampling.jobs import generate

    found = []

    def run_job(*arguments, options, **others):
        found.append(options["device"])
        return []

    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(generate, "run_job", run_job)
    with contextlib.suppress(SystemExit):
        main(["generate", "--out", str(folder / "out"), *arguments])
    (device,) = found
    return device


# --- on GPUs -----------------------------------------------------------------------------------------------------


def test_a_sampler_on_a_gpu_that_is_not_current(device):
    """Its images are those of the current one; with every backend, and in a captured graph."""
    if device.type != "cuda":
        pytest.skip("needs --device cuda")
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    plan = rs.Plan.build(steps=4, restart=[2, 1, 0.3, 2.0])
    denoiser = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1) ** 2), shape=(12,))
    for options in (dict(graph="off"), dict(graph="auto")):
        with torch.cuda.device(0):
            samplers = [rs.Sampler(denoiser, plan, 4, device=f"cuda:{i}", **options) for i in (0, 1)]
            x, y = (sampler.run(range(6)) for sampler in samplers)
            assert torch.cuda.current_device() == 0
        assert str(y.device) == "cuda:1"
        assert torch.equal(x.cpu(), y.cpu())
