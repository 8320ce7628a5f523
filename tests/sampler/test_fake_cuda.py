"""An evaluation on CUDA tensors that have a device, a dtype and a shape but no data: no operator mixes devices, every
dtype is as documented, and the host reads nothing. Runs where there is no GPU; the fused step is the reference's masked
form."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import restart_sampling as rs
from restart_sampling.models import build_network
from restart_sampling.models.parameterization import edm
from restart_sampling.sampler.executors import Conditions, Evaluation, Lanes, Needs
from restart_sampling.sampler.executors.selfcheck import begin
from restart_sampling.sampler.program import Program
from restart_sampling.sampler.table import Variant, bind

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
NETWORK = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 4,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}


HOST_READS = [getattr(torch.Tensor, f"__{kind}__") for kind in ("bool", "int", "float")]
HOST_READS += [torch.Tensor.item, torch.Tensor.tolist]


class Unguarded(TorchFunctionMode):
    """A PyTorch without CUDA has no device guard; the Python forms of these calls need one, the operators do not."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and isinstance(args[0], FakeTensor):
            if func is torch.Tensor.copy_:
                return aten.copy_.default(*args)
            if func is torch.Tensor.__getitem__:
                return self.item(*args)
            if func is torch.Tensor.__setitem__:
                return aten.copy_.default(self.item(*args[:2]), args[2])
            if func in HOST_READS:
                return aten._local_scalar_dense.default(args[0])
        return func(*args, **kwargs)

    @staticmethod
    def item(x, key):
        dim, indices = 0, []
        key = key if isinstance(key, tuple) else (key,)
        for k in key:
            if k is Ellipsis:
                dim = x.ndim - sum(i is not None for i in key[key.index(Ellipsis) + 1 :])
                continue
            if isinstance(k, int):
                x = aten.select.int(x, dim, k)
                continue
            if k is None:
                x = aten.unsqueeze.default(x, dim)
            elif isinstance(k, slice):
                x = aten.slice.Tensor(x, dim, k.start, k.stop, k.step or 1)
            indices.append(k if isinstance(k, torch.Tensor) else None)
            dim += 1
        return aten.index.Tensor(x, indices) if any(i is not None for i in indices) else x


class Devices(TorchDispatchMode):
    """Notes every operator whose tensors are not all on the GPU; scalars may be elsewhere."""

    def __init__(self):
        super().__init__()
        self.mixed, self.calls = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        if any(t.device.type != "cuda" and t.ndim for t in tensors):
            self.mixed.append(str(func))
        return out


def on_the_gpu(network):
    """The module with parameters and buffers that have no data."""
    for module in network.modules():
        for owner in (module._parameters, module._buffers):
            for name, t in owner.items():
                if t is not None:
                    new = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=CUDA)
                    owner[name] = torch.nn.Parameter(new, requires_grad=False) if owner is module._parameters else new
    return network


@contextlib.contextmanager
def fake_cuda():
    with Unguarded(), FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        yield


def evaluation_of(network, plan, dtype, per_sample=False):
    denoiser = rs.Denoiser(network, network.parameterization, (3, 8, 8), label_dim=4)
    program = Program(CUDA, torch.float32)
    (entry,) = program.add(bind(plan, denoiser.parameterization))
    conditions = Conditions(denoiser.conditions, CUDA)
    lanes = Lanes.make(2, denoiser.shape, conditions, Needs(plan.config.guided), CUDA, dtype, torch.float32)
    return Evaluation(network, program, lanes, 2, "reference", per_sample), entry


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_evaluation_stays_on_the_gpu(dtype, guidance, per_sample):
    plan = rs.Plan.build(steps=4, restart=[2, 2, 0.1, 0.5], guidance_scale=guidance)
    network = build_network(NETWORK)
    with fake_cuda():
        evaluation, _ = evaluation_of(on_the_gpu(network), plan, dtype, per_sample)
        seen = {}

        def watched(net_in, c_noise, labels):
            F = network(net_in, c_noise, labels)
            seen.update(net_in=net_in, c_noise=c_noise, labels=labels, F=F)
            return F

        evaluation.network = watched
        with Devices() as devices:
            evaluation()  # a host read would raise DataDependentOutputException
        assert devices.calls > 100
        assert devices.mixed == []
        assert {name: t.dtype for name, t in seen.items()} == {
            "net_in": dtype,
            "c_noise": torch.float32,
            "labels": torch.float32,
            "F": dtype,
        }
        assert len(seen["c_noise"]) == ((4 if guidance != 1.0 else 2) if per_sample else 1)
        m = evaluation.machine
        assert (m.x.dtype, m.h.dtype, m.net_in.dtype, m.coef.dtype) == (
            torch.float32,
            torch.float32,
            dtype,
            torch.float32,
        )
        assert (m.seeds.dtype, m.cursor.dtype, m.first_bad.dtype) == (torch.int64, torch.int32, torch.int32)


def test_the_load_of_a_batch_asks_the_gpu_nothing():
    """It copies seeds and labels to the GPU and waits for nothing that comes from there."""
    plan = rs.Plan.build(steps=4)
    with fake_cuda():
        evaluation, entry = evaluation_of(on_the_gpu(build_network(NETWORK)), plan, torch.bfloat16)
        seeds = torch.empty(2, dtype=torch.int64, device=CUDA)
        with Devices() as devices:
            evaluation.load(entry, seeds, None)
        assert devices.mixed == []


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_samples_move_to_fewer_lanes_without_the_host(guidance):
    """A batch that narrows, and the first half of a capture's self-check at the end of a plan."""
    plan = rs.Plan.build(steps=4, guidance_scale=guidance)
    with fake_cuda():
        network = on_the_gpu(build_network(NETWORK))
        wide, entry = evaluation_of(network, plan, torch.bfloat16, per_sample=True)
        narrow = Evaluation(network, wide.program, wide.lanes, 1, "reference", per_sample=True)
        with Devices() as devices:
            begin(wide, entry, start=3)
            narrow.put(wide.taken(torch.empty(1, dtype=torch.int64, device=CUDA)))
        assert devices.calls > 10
        assert devices.mixed == []


def elementwise(net_in, c_noise, labels=None, *, mean, bias):
    return torch.tanh(net_in + mean.view(-1, 1, 1, 1) + bias)


KINDS = {
    "three registers": (dict(solver="unipc"), Variant()),
    "two draws, start": (dict(solver="seeds3"), Variant("image")),
    "soft paste": (dict(restart="repaint:j=2,r=2"), Variant("noise", "initial", True)),
    "guidance in a part, paste": (dict(guidance_scale=2.0, guidance_interval=(0.2, 5.0)), Variant("latents", "fresh")),
    "apg, paste": (dict(guidance_scale=2.0, guidance="apg", apg_norm=1.0), Variant("image", "fresh")),
    "zero-star": (dict(guidance_scale=2.0, guidance="zero-star", zero_init=2), Variant()),
    "rescale, two draws": (dict(guidance_scale=2.0, guidance_rescale=0.5, solver="seeds3"), Variant()),
    "guide": (dict(guidance_scale=2.0, guide=True), Variant()),
}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_machine_stays_on_the_gpu(name, per_sample, monkeypatch):
    """Long histories, shared draws, pastes, methods of guidance, a guide and conditions: no host read in any of them.

    Samples start in some lanes and move to fewer ones with all their registers.
    """
    options, variant = KINDS[name]
    options = dict(options)
    guide = elementwise if options.pop("guide", False) else None
    conditions = {"mean": rs.Condition((), null=0.0), "bias": rs.Condition((3, 8, 8), shared=True, default=0.0)}
    denoiser = rs.Denoiser(elementwise, edm(0.5), (3, 8, 8), conditions=conditions)
    plan = rs.Plan.build(**{"steps": 5, **options})
    table = bind(plan, denoiser.parameterization, variant)
    with fake_cuda():
        program = Program(CUDA, torch.float32)
        (entry,) = program.add(table)
        buffers = Conditions(denoiser.conditions, CUDA)
        needs = Needs().with_tables([table])
        assert needs.pasted == (variant.paste is not None)
        lanes = Lanes.make(3, denoiser.shape, buffers, needs, CUDA, torch.bfloat16, torch.float32)
        arguments = dict(per_sample=per_sample, guide=guide)
        evaluation = Evaluation(elementwise, program, lanes, 3, "reference", **arguments)

        def on_gpu(*shape, dtype=torch.float32):
            return torch.empty(*shape, dtype=dtype, device=CUDA)

        given = {"x": on_gpu(2, 3, 8, 8)} if variant.start != "noise" else {}
        if variant.paste is not None:
            given |= {"known": on_gpu(2, 3, 8, 8), "mask": on_gpu(2, 3, 8, 8)}
        seeds, told = on_gpu(2, dtype=torch.int64), {"mean": on_gpu(2)}
        with Devices() as devices:
            evaluation.load(entry, seeds, told, given)
            for kind in sorted(set(table.kinds.tolist())):
                evaluation(kind)
            if per_sample:
                narrow = Evaluation(elementwise, program, lanes, 1, "reference", **arguments)
                narrow.put(evaluation.taken(on_gpu(1, dtype=torch.int64)))
        assert devices.calls > 50
        assert devices.mixed == []


def test_the_check_sees_host_reads_and_mixed_devices():
    with fake_cuda():
        x = torch.empty(2, 3, device=CUDA)
        with pytest.raises(DataDependentOutputException):
            float(x.sum())
        with pytest.raises(RuntimeError, match="device"):
            x + torch.zeros(3)
        with Devices() as devices:
            x.copy_(torch.zeros(2, 3))
        assert "aten.copy_.default" in devices.mixed


class Sent(TorchDispatchMode):
    """Counts copies from the host to the GPU."""

    def __init__(self):
        super().__init__()
        self.copies = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (*args[:2], out) if isinstance(t, torch.Tensor)]
        moves = func in (aten.copy_.default, aten._to_copy.default)
        self.copies += moves and out.device.type == "cuda" and any(t.device.type == "cpu" for t in tensors)
        return out


@pytest.mark.parametrize(
    "plans", [[dict(steps=4)], [dict(steps=4), dict(steps=6, solver="unipc"), dict(steps=5, restart=[2, 2, 0.1, 0.5])]]
)
def test_the_tables_of_a_batch_are_one_copy_and_the_start_of_its_samples_another(plans):
    """Two copies for each table before, 2 and 6 here; and 4 for the start: lanes, first rows, seeds and classes."""
    parameterization = edm(0.5)
    tables = [bind(rs.Plan.build(**options), parameterization) for options in plans]
    with fake_cuda():
        program = Program(CUDA, torch.float32)
        with Sent() as sent:
            entries = program.add(*tables)
        assert sent.copies == 1
        buffers = Conditions({"class_labels": rs.Condition((4,), null=0.0)}, CUDA)
        lanes = Lanes.make(3, (3, 8, 8), buffers, Needs().with_tables(tables), CUDA, torch.float32, torch.float32)
        evaluation, n = Evaluation(image, program, lanes, 3, "reference", per_sample=True), len(entries)
        with Sent() as sent:
            evaluation.start(range(n), entries, torch.arange(n), {"class_labels": torch.arange(n)})
        assert sent.copies == 1


def image(net_in, c_noise, labels=None):
    return net_in
