"""Prepared networks: precision by argument, the caller's module untouched, compiled once, and the parity report."""

from __future__ import annotations

import copy
import gc
import math
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
from support import edm2_golden
from support.networks import SHAPE, Tiny, tiny
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import restart_sampling as rs
from restart_sampling.common.images import to_uint8
from restart_sampling.models import build_network
from restart_sampling.models.parameterization import edm
from restart_sampling.sampler.float32 import SWITCHES, float32_products
from restart_sampling.sampler.network import PreparedNetwork, prepare

CONFIG = dict(
    class_name="EDMPrecond",
    model_type="SongUNet",
    img_resolution=8,
    img_channels=3,
    label_dim=4,
    model_channels=8,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[4],
)
TORCH = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PLAN = dict(steps=4, restart=[2, 1, 0.3, 2.0], sigma_min=0.02, sigma_max=20.0)


def make_unet(device, **config):
    """A small SongUNet whose last layers are not near zero."""
    network = build_network({**CONFIG, **config}, seed=1)
    for name, parameter in network.named_parameters():
        if name.endswith("weight") and parameter.abs().max() < 1e-3:
            parameter.mul_(1e5)
    return rs.Denoiser(network.to(device), network.parameterization, SHAPE, label_dim=4, name="unet")


@pytest.fixture
def unet(device):
    return make_unet(device)


class Spy(Tiny):
    """Notes the switches of float32 products while it runs."""

    def forward(self, net_in, c_noise, class_labels=None):
        Spy.seen = switches()
        return super().forward(net_in, c_noise)


def switches():
    return [slot.fp32_precision for slot in SWITCHES] + [legacy()]


def legacy():
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # the two ways to set it disagree
        return None


def inputs(device, batch=4, dtype=torch.float32, labels=False):
    generator = torch.Generator().manual_seed(batch)
    net_in = torch.randn(batch, *SHAPE, generator=generator).to(device, dtype)
    one_hot = torch.eye(4, device=device)[torch.arange(batch) % 4] if labels else None
    return net_in, torch.tensor([0.3], device=device), one_hot


def tensors(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


# Precision


@pytest.mark.parametrize("dtype", TORCH)
def test_precision_by_argument(unet, dtype, device):
    """Weights in the dtype asked for but the embedding's, the same bits as casting at every call, contiguous out."""
    network = prepare(unet, device=device, dtype=dtype, compile="off", memory_format="contiguous")
    assert network.net_dtype == TORCH[dtype]
    arguments = inputs(device, dtype=network.net_dtype, labels=True)
    F = network(*arguments)
    assert (F.dtype, F.shape, F.is_contiguous()) == (TORCH[dtype], (4, *SHAPE), True)
    precision = "tf32" if dtype == "tf32" and device.type == "cuda" else "ieee"
    with torch.inference_mode(), float32_products(precision, device):
        assert torch.equal(F, unet.network(*arguments))
    assert network.describe() == f"{dtype}, eager, contiguous"


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_no_weight_is_cast_while_sampling(unet, dtype, device):
    network = prepare(unet, device=device, dtype=dtype, compile="off")
    module = network.module
    weights = {t.untyped_storage().data_ptr(): name for name, t in tensors(module).items()}
    kinds = {name: t.dtype for name, t in tensors(module).items()}
    assert kinds["model.enc.8x8_conv.weight"] == kinds["model.enc.8x8_block0.norm0.bias"] == TORCH[dtype]
    assert kinds["model.map_layer0.weight"] == kinds["model.enc.8x8_block0.affine.weight"] == torch.float32

    cast = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func.overloadpacket in (torch.ops.aten.to, torch.ops.aten._to_copy) and out is not args[0]:
                cast.append(weights.get(args[0].untyped_storage().data_ptr()))
            return out

    arguments = inputs(device, dtype=network.net_dtype, labels=True)
    with Casts():
        network(*arguments)
    assert cast  # the embedding of each block is
    assert set(cast) == {None}


def test_the_callers_module_stays_as_it_was(unet, device):
    module = unet.network.train().requires_grad_(True)
    before = copy.deepcopy(module.state_dict())
    strides = {name: t.stride() for name, t in tensors(module).items()}
    for dtype in TORCH:
        network = prepare(unet, device=device, dtype=dtype, compile="off", memory_format="channels_last")
        network(*inputs(device, dtype=network.net_dtype, labels=True))
        assert not network.module.training
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    after = module.state_dict()
    assert all(after[name].dtype == t.dtype and torch.equal(after[name], t) for name, t in before.items())
    assert strides == {name: t.stride() for name, t in tensors(module).items()}


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_sampler_on_another_device_does_not_move_the_callers_module(precision):
    """One denoiser may serve samplers on several devices. (The meta device stands for a GPU.)"""
    den = tiny("cpu").network.double() if precision == torch.float64 else tiny("cpu").network
    den = rs.Denoiser(den, edm(0.5), SHAPE)
    weight, address = den.network.weight, den.network.weight.data_ptr()
    sampler = rs.Sampler(den, rs.Plan.build(**PLAN), register_dtype=precision, device="meta", batch_size=2)
    assert sampler.device.type == "meta"
    sampler.workspace.entries(sampler.table)
    evaluation = sampler.workspace.evaluation(2)
    F = sampler.network(evaluation.machine.net_in, evaluation.c_noise, None)
    assert (F.device.type, F.dtype) == ("meta", precision)
    assert den.network.weight is weight
    assert (weight.data_ptr(), weight.device.type, den.device.type) == (address, "cpu", "cpu")
    assert sampler.denoiser is den
    assert rs.Sampler(den, rs.Plan.build(**PLAN), register_dtype=precision).run([0]).isfinite().all()


def test_an_automatic_batch_size_is_found_where_the_network_runs():
    sampler = rs.Sampler(tiny("cpu"), rs.Plan.build(**PLAN), device="meta", batch_size="auto")
    assert sampler.batch_size == rs.Sampler(tiny("cpu"), rs.Plan.build(**PLAN), batch_size="auto").batch_size


def test_float32_shares_the_callers_weights(unet, device):
    """No memory for a copy, and in-place training steps are seen."""
    network = prepare(unet, device=device, compile="off", memory_format="contiguous")
    arguments = inputs(device, labels=True)
    before = network(*arguments)
    ours, theirs = tensors(network.module), tensors(unet.network)
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in theirs)
    unet.network.model.dec["8x8_aux_conv"].weight.mul_(2)
    assert not torch.equal(network(*arguments), before)


def test_two_precisions_at_once(unet, device):
    """One denoiser in two samplers, called in turn, each as if alone."""
    networks = {dtype: prepare(unet, device=device, dtype=dtype, compile="off") for dtype in ("fp32", "bf16")}
    alone = {d: n(*inputs(device, dtype=n.net_dtype, labels=True)).clone() for d, n in networks.items()}
    for _ in range(2):
        for dtype, network in networks.items():
            F = network(*inputs(device, dtype=network.net_dtype, labels=True))
            assert F.dtype == TORCH[dtype]
            assert torch.equal(F, alone[dtype])


def test_plain_functions_are_not_cast(device):
    fn = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1)), shape=SHAPE)
    network = prepare(fn, device=device, dtype="bf16")
    net_in, c_noise, _ = inputs(device, dtype=torch.bfloat16)
    assert torch.equal(network(net_in, c_noise), fn.network(net_in, c_noise, None))
    assert not network.compiled


@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
def test_the_border_is_contiguous(unet, memory_format, device):
    """Both layouts give the same F to rounding, in element order."""
    network = prepare(unet, device=device, compile="off", memory_format=memory_format)
    weight = network.module.model.enc["8x8_conv"].weight
    assert weight.is_contiguous(memory_format=getattr(torch, f"{memory_format}_format", torch.channels_last))
    F = network(*inputs(device, labels=True))
    want = prepare(unet, device=device, compile="off", memory_format="contiguous")(*inputs(device, labels=True))
    assert F.is_contiguous()
    assert (F - want).norm() <= rounding(unet, inputs(device, labels=True), want, 1e-5)
    assert network.memory_format == memory_format


@pytest.mark.parametrize("shape", [(7,), (5, 16), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_samples_that_are_no_images_are_contiguous(shape, dtype, device):
    """Channels last is a layout of images alone."""

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            weight = torch.ones(1, 2, 3, 3).to(memory_format=torch.channels_last)
            self.weight = torch.nn.Parameter(weight)

        def forward(self, net_in, c_noise, class_labels=None):
            assert net_in.is_contiguous()
            return net_in * 0.5

    denoiser = rs.Denoiser(Field().to(device), edm(0.5), shape)
    net_in = torch.randn(2, *shape, device=device)
    for asked in ("auto", "channels_last"):
        network = prepare(denoiser, device=device, dtype=dtype, compile="off", memory_format=asked)
        assert network.memory_format == "contiguous"
        assert network(net_in.to(network.net_dtype), torch.zeros(1, device=device)).shape == net_in.shape
        assert any("no images" in note for note in network.notes) == (asked == "channels_last")


def test_auto_keeps_the_layout_of_the_file(device):
    """On the CPU; on CUDA only fp32 does."""
    denoiser = tiny(device)
    assert prepare(denoiser, device=device).memory_format == "contiguous"
    denoiser.network.to(memory_format=torch.channels_last)
    assert prepare(denoiser, device=device).memory_format == "channels_last"


@torch.no_grad()
def rounding(denoiser, arguments, F, on_cpu):
    """How far another order of operations may be from F: `on_cpu` of it, or on a GPU, whose convolutions are chosen by
    layout and size, four times as far as F itself is from float64."""
    if F.device.type == "cpu":
        return on_cpu * F.norm()
    network = copy.deepcopy(denoiser.network).double().cpu()
    exact = network(*(None if t is None else t.double().cpu() for t in arguments))
    return max(on_cpu * F.norm(), 4 * (F.double().cpu() - exact).norm().to(F))


# TF32


@pytest.mark.parametrize("outside", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_tf32_is_a_matter_of_the_call(precision, outside):
    """The process-wide switches, both ways to read them, inside the call and after it (no GPU needed)."""
    with restored():
        torch.set_float32_matmul_precision(outside)
        before = switches()
        network = prepare(rs.Denoiser(Spy(), edm(0.5), SHAPE), device="cpu", compile="off")
        network._precision, network.device = precision, torch.device("cuda")
        network(*inputs("cpu"))
        want = "high" if precision == "tf32" else "highest"
        assert Spy.seen == [*[precision] * 3, *["ieee"] * 3, want]
        assert switches() == before


class Asks(Tiny):
    """Uses PyTorch's own ways to the switches while it runs, as a user's network may."""

    def forward(self, net_in, c_noise, class_labels=None):
        Asks.seen = [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32]
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            Asks.seen.append(torch.backends.cudnn.allow_tf32)
        Asks.seen.append(torch.backends.cudnn.allow_tf32)
        return super().forward(net_in, c_noise)


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_a_network_may_ask_for_the_switches(precision, outside):
    """cuDNN's switches agree with each other inside the call, so that its flags can be read, changed and put back."""
    with restored():
        torch.backends.cudnn.allow_tf32 = outside
        before = switches()
        network = prepare(rs.Denoiser(Asks(), edm(0.5), SHAPE), device="cpu", compile="off")
        network._precision, network.device = precision, torch.device("cuda")
        network(*inputs("cpu"))
        tf32 = precision == "tf32"
        assert Asks.seen == [tf32, tf32, False, tf32]
        assert switches() == before
        assert torch.backends.cudnn.allow_tf32 == outside
    assert torch.backends.cudnn.conv in SWITCHES
    assert torch.backends.cudnn.rnn in SWITCHES


def test_switches_that_disagree_come_back_too():
    with restored():
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # while the other way still says highest
        before = switches()
        assert before[-1] is None
        with float32_products("tf32", torch.device("cuda")):
            assert switches()[-1] == "high"
        assert switches() == before


def test_the_cpu_computes_in_float32(device):
    """oneDNN's bfloat16 products, chosen elsewhere, do not reach a float32 network."""
    with restored():
        torch.set_float32_matmul_precision("medium")
        before = switches()
        prepare(rs.Denoiser(Spy(), edm(0.5), SHAPE), device="cpu")(*inputs("cpu"))
        assert Spy.seen[3:] == [*["ieee"] * 3, "highest"]
        assert switches() == before


def test_threads_do_not_leave_each_others_switches():
    before = switches()
    wrong = []

    def work(precision):
        for _ in range(50):
            with float32_products(precision, torch.device("cuda")):
                wrong.extend(p for p in switches()[:3] if p != precision)

    threads = [threading.Thread(target=work, args=(p,)) for p in ("ieee", "tf32", "ieee", "tf32")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert switches() == before


def test_tf32_off_a_gpu_is_said():
    network = prepare(tiny("cpu"), device="cpu", dtype="tf32")
    assert any("no TF32" in note for note in network.notes)


class restored:
    """Puts the switches back, whatever the test did."""

    def __enter__(self):
        self.slots = [slot.fp32_precision for slot in SWITCHES]
        self.legacy = torch.get_float32_matmul_precision()
        self.cudnn = torch.backends.cudnn.allow_tf32

    def __exit__(self, *_):
        torch.set_float32_matmul_precision(self.legacy)
        torch.backends.cudnn.allow_tf32 = self.cudnn
        for slot, value in zip(SWITCHES, self.slots, strict=True):
            slot.fp32_precision = value


# Compiling


@pytest.mark.slow
@pytest.mark.compiles
def test_a_compiled_unet_equals_the_eager_one(device):
    """To rounding. One level with attention: inductor's time grows with the number of blocks."""
    unet = make_unet(device, channel_mult=[1], attn_resolutions=[8])
    arguments = inputs(device, labels=True)
    eager = prepare(unet, device=device, compile="off")(*arguments)
    network = prepare(unet, device=device, compile="on")
    F = network(*arguments)
    assert (F - eager).norm() <= rounding(unet, arguments, eager, 4e-6)
    assert F.is_contiguous()
    assert (network.compilations, network.recompiles) == (1, 0)
    assert network.describe() == f"fp32, compiled (fullgraph), {network.memory_format}"


@pytest.mark.compiles
def test_edm2_compiles_whole(device):
    """The form that samplers run, in one piece, for a c_noise of the batch; equal to the eager one to rounding."""
    net = edm2_golden.network({"channel_mult": [1], "num_blocks": 1, "attn_resolutions": [8]})
    den = edm2_golden.denoiser(net.to(device))
    arguments = torch.randn(4, 3, 8, 8).to(device), torch.tensor([0.3], device=device), torch.eye(5, device=device)[:4]
    eager = prepare(den, device=device, compile="off")(*arguments)
    network = prepare(den, device=device, compile="on")
    F = network(*arguments)
    assert (F - eager).norm() <= rounding(den, arguments, eager, 4e-6)
    assert (network.compilations, network.recompiles) == (1, 0)


@pytest.mark.compiles
def test_one_compilation_whatever_the_plan(device):
    """Full and partial batches, two plans: one compilation; one more for samplers that give each sample its own
    c_noise.
    """
    network = prepare(tiny(device), device=device, compile="on")
    denoiser = rs.Denoiser(network, edm(0.5), SHAPE)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # an unexpected compilation
        net_in, c_noise, _ = inputs(device)
        for plan in (rs.Plan.build(**PLAN), rs.Plan.build(**{**PLAN, "steps": 5, "solver": "euler"})):
            for row in plan.rows:
                network(net_in.mul_(0.5), c_noise.fill_(math.log(row.sigma) / 4))
        assert (network.compilations, network.recompiles) == (1, 0)
        network(net_in, c_noise.expand(4).contiguous())
    assert (network.compilations, network.recompiles) == (2, 0)
    assert denoiser.network is network


@pytest.mark.compiles
def test_samplers_compile_once(device):
    """Through the public sampler with one batch size: what is not full is padded, a new plan is a new table."""
    sampler = rs.Sampler(
        tiny(device), rs.Plan.build(**PLAN), batch_size=4, compile="on", device=device, batch_invariant=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        sampler.run(range(6))
        sampler.set_plan(rs.Plan.build(**{**PLAN, "steps": 5}))
        sampler.run(range(3))
    assert (sampler.network.compilations, sampler.network.recompiles) == (1, 0)


@pytest.mark.compiles
def test_an_unexpected_recompilation_is_counted_and_reported(device):
    network = prepare(tiny(device), device=device, compile="on")
    network(*inputs(device, batch=4))
    with pytest.warns(RuntimeWarning, match=r"compiled again, for normal tensors net_in \[3, 3, 8, 8\]"):
        network(*inputs(device, batch=3))
    network(*inputs(device, batch=4))
    assert (network.compilations, network.recompiles) == (2, 1)
    assert "batches of 4" in network.notes[-1]


@pytest.mark.compiles
def test_too_many_recompilations_do_not_pass_silently(device):
    """Dynamo's limit would mean running eagerly: that is an error under "on" and a note under "auto"."""
    import torch._dynamo

    networks = [prepare(tiny(device), device=device, compile="on") for _ in range(2)]
    networks[1]._compiled.required = False
    with torch._dynamo.config.patch(recompile_limit=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for network in networks:
            for batch in (1, 2):
                network(*inputs(device, batch=batch))
        with pytest.raises(rs.BackendError, match="cannot be compiled"):
            networks[0](*inputs(device, batch=3))
        networks[1](*inputs(device, batch=3))
    assert not networks[1].compiled
    assert "runs eagerly" in networks[1].notes[-1]


@pytest.mark.compiles
def test_many_networks_do_not_share_a_limit(device):
    """Every prepared network has dynamo's cache to itself: more of them than its limit compile once each."""
    denoiser = tiny(device)
    for _ in range(10):
        network = prepare(denoiser, device=device, compile="on")
        network(*inputs(device))
        assert (network.compilations, network.recompiles) == (1, 0)


@pytest.mark.compiles
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_compiled_network_lives_as_long_as_its_sampler(device, dtype):
    """Dynamo keeps what it was given to compile with; the network, its copy and the weights are not held by that."""
    denoiser = tiny(device)
    sampler = rs.Sampler(denoiser, rs.Plan.build(**PLAN), 2, compile="on", device=device, dtype=dtype)
    sampler.run(range(2))
    assert sampler.network.compilations == 1
    module = sampler.network.module
    watched = [weakref.ref(x) for x in (sampler, sampler.network, module, module.weight)]
    del sampler, module
    gc.collect()
    assert [ref() for ref in watched] == [None] * 4


@pytest.mark.compiles
def test_a_graph_break_is_an_error_under_on(device):
    network = prepare(tiny(device, breaks=True), device=device, compile="on")
    with pytest.raises(
        rs.BackendError, match=r"compile='on' was asked for, but the network cannot be compiled: .*; use"
    ):
        network(*inputs(device))


@pytest.mark.compiles
def test_a_graph_break_is_a_note_under_auto(device, monkeypatch):
    want = prepare(tiny(device), device=device, compile="off")(*inputs(device))
    monkeypatch.setattr(PreparedNetwork, "_choose_compile", lambda self, asked: True)
    network = prepare(tiny(device, breaks=True), device=device, compile="auto")
    assert torch.equal(network(*inputs(device)), want)
    assert not network.compiled
    assert network.describe().startswith("fp32, eager")
    assert "the network runs eagerly, it cannot be compiled" in network.notes[-1]
    network(*inputs(device))
    assert network.compilations == 0


@pytest.mark.compiles
def test_a_disabled_compiler_is_noticed(device):
    network = prepare(tiny(device), device=device, compile="on")
    with torch.compiler.set_stance("force_eager"), pytest.raises(rs.BackendError, match="switched off"):
        network(*inputs(device))


@pytest.mark.compiles
def test_wrong_arguments_show_themselves(unet, device):
    """A mistake in a compiled network's input is reported as such, not as a failure to compile."""
    network = prepare(unet, device=device, compile="on")
    with pytest.raises(ValueError, match="net_in must have the shape"):
        network(torch.zeros(2, 3, 4, 4, device=device), torch.zeros(1, device=device))


@pytest.mark.compiles
def test_plain_functions_compile_under_on(device):
    fn = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1)), shape=SHAPE)
    network = prepare(fn, device=device, compile="on")
    net_in, c_noise, _ = inputs(device)
    assert torch.allclose(network(net_in, c_noise), fn.network(net_in, c_noise, None), rtol=1e-6)
    assert (network.compiled, network.compilations) == (True, 1)


def test_auto_does_not_compile_on_the_cpu():
    network = prepare(tiny("cpu"), device="cpu")
    assert not network.compiled
    assert network.notes == ()  # as asked: nothing to note


REFUSED = {
    "dtype": (dict(dtype="fp8"), "dtype must be one of fp32, tf32, bf16, fp16, got 'fp8'"),
    "compile": (dict(compile="maybe"), "compile must be one of auto, on, off, got 'maybe'"),
    "memory_format": (dict(memory_format="nhwc"), "memory_format must be one of"),
    "device": (dict(device="xpu"), "not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    options, message = REFUSED[name]
    with pytest.raises(rs.BackendError, match=message):
        prepare(tiny("cpu"), **{"device": "cpu", **options})


def test_a_module_that_cannot_be_copied_is_refused():
    module = Tiny()
    module.lock = threading.Lock()
    with pytest.raises(rs.BackendError, match="cannot be copied for inference"):
        prepare(rs.Denoiser(module, edm(0.5), SHAPE), device="cpu")


# Parity


class Wrong(nn.Module):
    """F = c everywhere, and c·(1 + 0.01·c²) when net_in is bfloat16; sample `bad` is then NaN."""

    def __init__(self, bad: int | None = None):
        super().__init__()
        self.bad = bad

    def forward(self, net_in, c_noise, class_labels=None):
        c = c_noise.view(-1, 1, 1, 1)
        low = net_in.dtype == torch.bfloat16
        F = (c * (1 + 0.01 * c * c if low else 1)).expand(net_in.shape).clone()
        if low and self.bad is not None:
            F[self.bad] = float("nan")
        return F


def test_parity_measures_a_known_error(device):
    """Rows: the injected error of each noise level. Images: what two runs give when compared by hand."""
    denoiser, plan = rs.Denoiser(Wrong(), edm(0.5), SHAPE), rs.Plan.build(**PLAN)
    as_loaded = dict(compile="off", memory_format="contiguous")  # on a GPU the default would be neither
    report = rs.parity(denoiser, plan, dtype="bf16", seeds=range(4), batch_size=2, device=device, **as_loaded)
    assert sum(row.evaluations for row in report.rows) == plan.nfe
    assert len(report.rows) < plan.nfe  # the restart visits its levels again
    assert [row.sigma for row in report.rows] == sorted({row.sigma for row in plan.rows}, reverse=True)
    for row in report.rows:
        want = 0.01 * (math.log(row.sigma) / 4) ** 2
        assert row.rms == pytest.approx(want, rel=1e-3, abs=1e-7)
        assert row.max == pytest.approx(want, rel=1e-3, abs=1e-7)
    x, y = (
        rs.Sampler(denoiser, plan, 2, dtype=d, device=device, graph="off", compile="off").run(range(4))
        for d in ("fp32", "bf16")
    )
    error = to_uint8(x).astype(float) - to_uint8(y)
    assert report.image_rms == pytest.approx((x - y).double().square().mean().sqrt().item())
    assert report.image_max == pytest.approx((x - y).abs().max().item())
    assert report.psnr == pytest.approx(10 * math.log10(255**2 / np.mean(error**2)))
    assert report.changed == pytest.approx(np.mean(error != 0))
    assert report.failures == 0
    assert str(report).startswith("bf16, eager, contiguous  against  fp32, eager, contiguous")
    assert f"finished samples (4, {plan.nfe} evaluations each)" in str(report)


def test_parity_with_itself_is_exact(unet, device):
    report = rs.parity(unet, rs.Plan.build(**PLAN), dtype="fp32", compile="off", seeds=range(2), device=device)
    assert {(row.rms, row.max) for row in report.rows} == {(0.0, 0.0)}
    assert (report.image_rms, report.image_max, report.psnr, report.changed) == (0, 0, math.inf, 0)


def test_parity_of_bfloat16_is_of_its_precision(unet, device):
    """Between an eighth of one rounding (2^−9) and some tens of them, at every noise level."""
    report = rs.parity(unet, rs.Plan.build(**PLAN), dtype="bf16", compile="off", seeds=range(2), device=device)
    assert all(2**-12 < row.rms < 2**-4 for row in report.rows), str(report)
    assert 0 < report.image_rms < 0.1


def test_parity_counts_samples_that_broke(device):
    denoiser = rs.Denoiser(Wrong(bad=1), edm(0.5), SHAPE)
    report = rs.parity(denoiser, rs.Plan.build(**PLAN), seeds=range(3), device=device, compile="off")
    assert (report.samples, report.failures) == (3, 1)
    assert math.isfinite(report.image_rms)
    assert math.isnan(report.rows[0].max)
    assert "1 of 3 samples became NaN" in str(report)


def test_parity_under_guidance(unet, device):
    report = rs.parity(
        unet, rs.Plan.build(**PLAN, guidance_scale=2.0), dtype="bf16", compile="off", seeds=range(2), device=device
    )
    assert len(str(report).splitlines()) < 30
    assert 0 < report.image_rms < 0.2


@pytest.mark.parametrize(("seeds", "batch_size"), [([], None), (range(3), 2)])
def test_parity_refuses_uneven_batches(unet, seeds, batch_size):
    with pytest.raises(rs.RestartError, match="do not divide"):
        rs.parity(unet, rs.Plan.build(**PLAN), seeds=seeds, batch_size=batch_size)
