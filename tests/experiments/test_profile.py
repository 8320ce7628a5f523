"""The profile: what becomes of recorded events, the commands it drives, and one run on the CPU."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.children import python

import restart_sampling as rs
from restart_kernels import layout
from restart_sampling.cli.app import main
from restart_sampling.common import marks
from restart_sampling.experiments import profile as p
from restart_sampling.experiments.profile import table, tools
from restart_sampling.experiments.profile.job import Job
from restart_sampling.sampler.table import bind


def job_of(batch_size):
    plan = rs.Plan.build(steps=2)
    return Job(rs.Sampler(rs.load("fashion-mnist"), plan, batch_size, graph="off", compile="off", device="cpu"))


def event(cat, name, ts, dur, tid=1):
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid}


def test_gpu_events_become_parts_busy_time_and_gaps():
    """Two evaluations of a network of two kernels; 4 µs idle in 40, an overlap counted once."""
    events = [
        event("kernel", "void cudnn::conv(float)", 0, 10),
        event("kernel", "triton_poi_fused_add", 8, 6),  # 2 µs of it under the first
        event("kernel", "row_kernel", 14, 3),
        event("kernel", "advance_kernel", 17, 1),
        event("kernel", "void cudnn::conv(float)", 20, 10),
        event("kernel", "void restart::cuda::(anonymous namespace)::run<restart::cuda::RowVectors<4>>", 30, 6),
        event("kernel", "void restart::cuda::(anonymous namespace)::run<restart::cuda::Advance>", 36, 1),
        event("gpu_memcpy", "Memcpy DtoD", 39, 1),
        event("cuda_runtime", "cudaGraphLaunch", 0, 2),
    ]
    found = p.profile_cuda(reversed(events), evaluations=2)
    assert (found.us, found.lanes) == (20, 1)
    assert {name: (part.launches, part.us) for name, part in found.parts.items()} == {
        "network": (1.5, 12),
        "step": (1, 4.5),
        "advance": (1, 1),
        "other": (0.5, 0.5),
    }
    assert found.busy == pytest.approx(36 / 40)
    assert found.gap_us == pytest.approx(2)


def test_cpu_ranges_of_two_slices():
    """Two threads with two evaluations each; a third thread loaded them and is not counted."""
    events = [event("user_annotation", "step", 0, 5, tid=9)]
    for tid in (1, 2):
        for start in (10, 30):
            events += [
                event("user_annotation", "network", start, 16, tid),
                event("cpu_op", "aten::conv2d", start + 1, 10, tid),
                event("cpu_op", "aten::convolution", start + 2, 8, tid),  # called by the one above
                event("cpu_op", "aten::silu", start + 12, 2, tid),
                event("user_annotation", "step", start + 16, 2, tid),
                event("cpu_op", "aten::empty", start + 16.5, 1, tid),  # not the network's
                event("user_annotation", "advance", start + 18, 1, tid),
            ]
    found = p.profile_cpu(events)
    assert (found.lanes, found.evaluations) == (2, 4)
    assert found.parts["network"] == p.Part(2, 16)
    assert found.parts["step"] == p.Part(1, 2)
    assert found.us == pytest.approx(2 * 39 / 4)  # from 10 to 49, two lanes, four evaluations
    assert found.busy == pytest.approx(19 / 19.5)


def test_a_heun_step_moves_24_bytes_with_a_16_bit_network():
    """Main steps alone: each adds 24 bytes per element, and the table's flags say so."""
    den = rs.Denoiser.from_function(lambda x, sigma: x, shape=(1,))
    short, long = (sum(p.step_bytes(bind(rs.Plan.build(steps=n), den.parameterization), 2, 2)) for n in (10, 20))
    assert long - short == 10 * 24
    table = bind(rs.Plan.build(steps=10), den.parameterization)
    by_hand = 0
    for flags in table.code[:, layout.FLAGS]:
        by_hand += 4 * bin(flags & (layout.READ_X | layout.READ_H | layout.STORE_X | layout.STORE_H)).count("1")
        by_hand += 2 * bin(flags & (layout.READ_F | layout.STORE_NET)).count("1")
    assert short == by_hand


def test_a_guided_step_reads_and_writes_the_network_twice():
    den = rs.Denoiser.from_function(lambda x, sigma: x, shape=(1,), label_dim=2)
    plain, guided = (
        sum(p.step_bytes(bind(rs.Plan.build(steps=10, guidance_scale=w), den.parameterization), 2, 2))
        for w in (1.0, 2.0)
    )
    assert guided - plain == 2 * 2 * 19  # 19 evaluations, each with one more F and one more net_in


def test_the_row_that_draws_the_latent_counts_where_it_was_recorded():
    """Rows of 6 (latent), 12, 14 and 10 bytes: a GPU records four steps for three evaluations, a slice three."""
    rows = [6, 12, 14, 10]
    assert p.bytes_per_evaluation(rows, steps=4 / 3) == pytest.approx(42 / 3)
    assert p.bytes_per_evaluation(rows, steps=1.0) == pytest.approx(36 / 3)


NSYS = """Generating SQLite file restart.sqlite from restart.nsys-rep
Processing [restart.sqlite] with [cuda_gpu_trace.py]...

Start (ns),Duration (ns),CorrId,GrdX,GrdY,GrdZ,Bytes (MB),Device,Ctx,Strm,Name
1000,10000,12,8,1,1,,H,1,7,"void cudnn::conv(float, int)"
12000,3000,13,8,1,1,,H,1,7,step_kernel
16000,500,14,,,,0.004,H,1,7,[CUDA memcpy Host-to-Device]

Processing of other reports may be printed behind the table
"""  # constructed from the report's documented columns


def test_nsys_rows_become_events():
    events = p.read_nsys(NSYS)
    assert [(e["cat"], e["name"], e["ts"], e["dur"]) for e in events] == [
        ("kernel", "void cudnn::conv(float, int)", 1, 10),
        ("kernel", "step_kernel", 12, 3),
        ("gpu_memcpy", "[CUDA memcpy Host-to-Device]", 16, 0.5),
    ]
    assert p.read_nsys("SKIPPED: it does not contain CUDA trace data.") == []
    assert p.profile_cuda([], 3).us == 0


def test_a_written_trace_is_read_back(tmp_path):
    events = p.read_nsys(NSYS)
    p.write_trace(tmp_path / "trace.json.gz", events)
    assert p.read_trace(tmp_path / "trace.json.gz") == events
    assert {e["tid"] for e in events} == {7}  # the stream


def test_the_commands_of_nsys_and_ncu():
    job = ["python", "job.py"]
    assert p.nsys_command("nsys", Path("out/restart"), job) == [
        "nsys",
        "profile",
        "-t",
        "cuda,nvtx",
        "--cuda-graph-trace=node",
        "--sample=none",
        "--cpuctxsw=none",
        "--capture-range=nvtx",
        "--nvtx-capture=profile@restart_sampling",
        "--capture-range-end=stop",
        "-e",
        "NSYS_NVTX_PROFILER_REGISTER_ONLY=0",
        "-o",
        "out/restart",
        "-f",
        "true",
        "python",
        "job.py",
    ]
    assert p.nsys_stats_command("nsys", Path("r.nsys-rep")) == [
        "nsys",
        "stats",
        "-r",
        "cuda_gpu_trace",
        "--format",
        "csv",
        "--force-export=true",
        "r.nsys-rep",
    ]
    assert p.ncu_command("ncu", Path("out/step"), job) == [
        "ncu",
        "--nvtx",
        "--nvtx-include",
        "restart_sampling@profile/",
        "-k",
        "regex:^(row_kernel|weigh_kernel|advance_kernel|run|run_block)$",
        "--launch-count",
        "10",
        "--graph-profiling",
        "node",
        "--set",
        "full",
        "-o",
        "out/step",
        "-f",
        "python",
        "job.py",
    ]
    assert p.nsys_command("nsys", Path("out/restart"), job, nvtx=False) == [
        "nsys",
        "profile",
        "-t",
        "cuda,nvtx",
        "--cuda-graph-trace=node",
        "--sample=none",
        "--cpuctxsw=none",
        "--capture-range=cudaProfilerApi",
        "--capture-range-end=stop",
        "-o",
        "out/restart",
        "-f",
        "true",
        "python",
        "job.py",
    ]
    assert p.ncu_command("ncu", Path("out/step"), job, nvtx=False) == [
        "ncu",
        "--profile-from-start",
        "off",
        "-k",
        "regex:^(row_kernel|weigh_kernel|advance_kernel|run|run_block)$",
        "--launch-count",
        "10",
        "--graph-profiling",
        "node",
        "--set",
        "full",
        "-o",
        "out/step",
        "-f",
        "python",
        "job.py",
    ]
    assert p.job_command("python", dict(steps=2, restart=None, guidance_scale=1.5, tool="job")) == [
        "python",
        "-c",
        "from restart_sampling.cli import main; main()",
        "profile",
        "--steps",
        "2",
        "--guidance-scale",
        "1.5",
        "--tool",
        "job",
    ]


def test_kernels_have_the_names_that_are_looked_for():
    """In the Triton sources and the CUDA C++ ones."""
    from restart_kernels.row import triton, weights_triton

    root = Path(__file__).parents[2]
    assert {"row_kernel", "advance_kernel"} <= set(vars(triton))
    assert "weigh_kernel" in vars(weights_triton)
    sources = [(root / "bindings/csrc/cuda" / name).read_text() for name in ("gpu.cu", "kernels.h", "row.h", "weigh.h")]
    assert re.search(r"__global__[^{;]*\brun\(", sources[0])
    for name in ("RowVectors", "RowElements", "Advance", "Weigh"):
        assert re.search(rf"struct {name}\b", "".join(sources[1:]))


def test_the_job_runs_in_a_process_of_its_own(tmp_path):
    """What nsys and ncu would start."""
    command = p.job_command(sys.executable, dict(steps=2, batch=1, device="cpu", out=tmp_path / "none", tool="job"))
    paths = os.pathsep.join(sys.path)
    done = python(*command[1:], env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("provider", "window"), [("nvtx", "nvtx"), ("torch", "cudaProfilerApi"), ("none", "cudaProfilerApi")]
)
@pytest.mark.parametrize("tool", ["nsys", "ncu"])
def test_without_the_nvtx_package_the_cuda_profiler_calls_mark_the_job(
    tool, provider, window, tmp_path, monkeypatch, capsys
):
    """And it is said which of the two it is."""
    calls = []
    monkeypatch.setattr(tools, "_call", lambda arguments: calls.append(arguments) or NSYS)
    monkeypatch.setattr(tools.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(tools, "show", lambda *arguments: None)
    monkeypatch.setattr(marks, "provider", lambda: provider)
    if tool == "ncu":
        tools.by_ncu(tmp_path, ["the", "job"])
        assert ("--profile-from-start" in calls[0]) == (window == "cudaProfilerApi")
        assert ("--nvtx-include" in calls[0]) == (window == "nvtx")
    else:
        job = SimpleNamespace(warm_up=lambda: None, images_per_second=lambda: 1.0, evaluations=3)
        tools.by_nsys(tmp_path, job, ["the", "job"])
        assert f"--capture-range={window}" in calls[0]
    said = capsys.readouterr().out.splitlines()[0]
    assert ("cudaProfilerStart" in said, "NVTX range" in said) == (window != "nvtx", window == "nvtx")


def test_the_job_tells_the_cuda_profiler_where_it_begins_and_ends(monkeypatch):
    log = []

    class Runtime:
        def cudaProfilerStart(self):
            log.append("start")
            return 0

        def cudaProfilerStop(self):
            log.append("stop")
            return 0

    monkeypatch.setattr(torch.cuda.profiler, "cudart", Runtime)
    monkeypatch.setattr(torch.cuda.profiler, "check_error", lambda code: None)
    job = job_of(1)
    with job.announced():
        log.append("on a CPU")
    job.sampler.device = torch.device("cuda:0")
    with job.announced():
        log.append("job")
    assert log == ["on a CPU", "start", "job", "stop"]


@pytest.mark.parametrize("tool", ["nsys", "ncu"])
def test_without_a_gpu_the_command_is_shown(tool, tmp_path, monkeypatch, capsys):
    """Exactly what would run, to be copied: with a sentence, exit code 0, and nothing written."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "my profile"
    with pytest.raises(SystemExit) as end:
        main(["profile", "--tool", tool, "--steps", "4", "--batch", "8", "--out", str(out)])
        raise SystemExit(0)  # typer returns where the package is not run as a program
    assert end.value.code in (0, None)
    said = capsys.readouterr().out
    assert "No CUDA device is visible here, so nothing was profiled" in said
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith(f"{tool} ")]
    options = dict(steps=4, batch=8, batches=1, tool="job")
    job = p.job_command("python", options)
    if tool == "nsys":
        made = [p.nsys_command("nsys", out / "restart", job, nvtx) for nvtx in (True, False)]
        made.insert(1, p.nsys_stats_command("nsys", out / "restart.nsys-rep"))
    else:
        made = [p.ncu_command("ncu", out / "step", job, nvtx=nvtx) for nvtx in (True, False)]
    assert commands == made
    assert not out.exists()


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0.0, "0.00 µs"),
        (0.5, "0.50 µs"),
        (12.34, "12.3 µs"),
        (999.4, "999 µs"),
        (999.6, "1.00 ms"),
        (4567, "4.57 ms"),
        (45_670, "45.7 ms"),
        (2_823_646, "2.82 s"),
        (123_456_789, "123 s"),
        (9_999_999_999, "10,000 s"),
    ],
)
def test_times_have_the_unit_of_their_size(us, text):
    assert p.duration(us) == text


def test_the_profiler_says_nothing_of_its_own(tmp_path):
    """Its library writes lines to stderr at start and stop unless it is told not to; and a busy machine is reported."""
    code = (
        "from restart_sampling.experiments.profile import torch_profiler\n"
        "import torch\n"
        "with torch_profiler(activities=[torch.profiler.ProfilerActivity.CPU]):\n"
        "    torch.ones(3).add(1)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "KINETO_LOG_LEVEL"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_busy_machine_is_reported(monkeypatch, capsys):
    from restart_sampling.experiments.measure import timing

    monkeypatch.setattr(table, "_copy_bandwidth", lambda device, lanes: 1e12)
    job = job_of(1)
    ticks = iter([(0.0, 0.0, 0.0), (1.0, 1.0, 0.2), (1.0, 0.5, 0.5), (2.0, 1.5, 1.5)])
    monkeypatch.setattr(timing, "_cpu_seconds", lambda: next(ticks))
    job.seconds(lambda: None)
    assert job.disturbed == 1  # 0.8 s of 1 s went to others
    job.seconds(lambda: None)
    assert job.disturbed == 1  # all of it was ours
    found = p.profile_cuda([event("kernel", "step_kernel", 0, 3)], 1)
    for disturbed in (1, 0):
        job.disturbed = disturbed
        table.show(found, job, 1.0, "here")
        assert ("measure again on a quiet machine" in capsys.readouterr().out) == bool(disturbed)


def test_nsys_is_driven_and_its_trace_read(tmp_path, monkeypatch, capsys):
    """With stand-ins for nsys and the device: the report's rows reach the table."""
    calls = []

    def call(arguments):
        calls.append(arguments)
        return NSYS

    monkeypatch.setattr(tools, "_call", call)
    monkeypatch.setattr(tools.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(table, "_copy_bandwidth", lambda device, lanes: 1e12)
    job = job_of(4)
    tools.by_nsys(tmp_path, job, ["the", "job"])
    (profile, stats), out = calls, capsys.readouterr().out
    assert profile[:2] == ["/bin/nsys", "profile"]
    assert profile[-2:] == ["the", "job"]
    assert stats[:2] == ["/bin/nsys", "stats"]
    assert "step" in out
    assert "nsys-ui" in out
    assert len(p.read_trace(tmp_path / "trace.json.gz")) == 3


def test_a_profiler_that_recorded_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "_call", lambda arguments: "SKIPPED: it does not contain CUDA trace data.")
    job = job_of(1)
    with pytest.raises(rs.RestartError, match="recorded nothing on the device"):
        tools.by_nsys(tmp_path, job, [])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_profile_of_the_bundled_model(tmp_path, capsys, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        main(["profile", "--steps", "2", "--batch", "16", "--device", "cpu", "--out", str(tmp_path), "--tool", "torch"])
    except SystemExit as end:
        assert end.code in (0, None)
    finally:
        torch.set_num_threads(before)
    out = capsys.readouterr().out
    for word in ("3 NFE", "network", "step", "advance", "gaps", "images/s", "GB/s", "trace.json.gz"):
        assert word in out
    assert ("2 slices busy" in out) == (threads == 2)
    events = p.read_trace(tmp_path / "trace.json.gz")
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert {"profile", "batch", "main", "network", "step", "advance"} <= set(names)
    found = p.profile_cpu(events)
    assert (found.lanes, found.evaluations) == (threads, 3 * threads)
    assert found.parts["network"].launches > 100
    assert 0.3 < found.busy <= 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tool", "perf"], "--tool must be one of auto, torch, nsys, ncu"),
        (["--tool", "nsys", "--device", "cpu"], "--tool nsys cannot run: nsys profiles CUDA devices, not cpu"),
        (["--tool", "ncu", "--device", "cpu"], "--tool ncu cannot run: ncu profiles CUDA devices, not cpu"),
        (["--batches", "0"], "--batches must be ≥ 1"),
        (["--batch", "none"], "--batch must be a number"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SystemExit) as end:
        main(["profile", *arguments])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("tool", ["nsys", "ncu"])
def test_a_tool_that_is_not_installed_beside_a_gpu_is_an_error(tool, capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit) as end:
        main(["profile", "--tool", tool])
    assert end.value.code == 2
    assert f"--tool {tool} cannot run: {tool} was not found on the PATH; use --tool torch" in capsys.readouterr().err
