"""The GPU suite's driver without a GPU: its stages are listed, and a dry run takes the paths of all measurements."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from support.children import python

HERE = Path(__file__).parents[2] / "benchmarks" / "gpu"
sys.path.append(str(HERE))  # the suite's files are scripts

import measure  # noqa: E402
import rows  # noqa: E402
import run as driver  # noqa: E402


def call(*arguments, out=None):
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "OUT")}
    environment |= {"OUT": str(out)} if out else {}
    environment |= {"OMP_NUM_THREADS": "1"}
    return python(HERE / "run.py", *arguments, env=environment)


def test_the_stages_are_listed():
    done = call("--list")
    assert done.returncode == 0, done.stderr
    words = [line.split()[0] for line in done.stdout.splitlines()]
    assert words == [word for step, stages in driver.STEPS.items() for word in (f"{step}:", *stages)]
    assert call("--stages", "nothing").returncode == 2
    assert call("--stages", "kernels", "--step", "tests").returncode == 2
    assert call("--step", "nothing").returncode == 2


def test_each_step_fits_ten_minutes():
    """The stages of a step fit into its time, every stage is in a step, and every step begins with the environment."""
    seconds = {stage.name: stage.seconds for stage in driver.STAGES}
    assert set(seconds) == {name for stages in driver.STEPS.values() for name in stages}
    for stages in driver.STEPS.values():
        assert sum(seconds[name] for name in stages) <= driver.SECONDS <= 600
        assert stages[0] == "environment"
    makefile = (HERE.parents[1] / "Makefile").read_text()
    for step in driver.STEPS:
        assert f"gpu-{step}:" in makefile
        assert f"$(GPU) --step {step}" in makefile


def test_steps_run_in_order_and_a_failure_does_not_stop_them(tmp_path, monkeypatch, capsys):
    ran = []

    def stage(name, result):
        return driver.Stage(name, "", 10, lambda context, seconds: ran.append(name) or result)

    results = {"environment": True, "tests": False, "sanitize": None}
    stages = tuple(stage(s.name, results.get(s.name, True)) for s in driver.STAGES)
    monkeypatch.setattr(driver, "STAGES", stages)
    monkeypatch.setattr(sys, "argv", ["run.py", "--device", "cpu", "--out", str(tmp_path)])
    monkeypatch.delenv("OUT", raising=False)
    assert driver.main() == 1
    assert ran == [name for stages in driver.STEPS.values() for name in stages]
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("#####")] == [
        "##### tests",
        "##### kernels",
        "##### images",
    ]
    assert re.search(r"tests +FAILED", said)
    assert re.search(r"sanitize +skipped", said)
    ran.clear()
    monkeypatch.setattr(sys, "argv", ["run.py", "--device", "cpu", "--out", str(tmp_path), "--step", "kernels"])
    assert driver.main() == 0
    assert ran == ["environment", "kernels", "launches", "profile"]


def test_what_is_missing_is_said_and_the_next_stage_runs(tmp_path, monkeypatch):
    """A machine lacks pytest, typer and compute-sanitizer, and its native library could not be built."""
    monkeypatch.delenv("OUT", raising=False)
    monkeypatch.setattr(driver, "find_spec", lambda name: None)
    monkeypatch.setattr(driver.shutil, "which", lambda name: None)
    context = driver.Context("cuda", True, tmp_path / "r.json", tmp_path)

    def call(self, name, command, seconds):
        (tmp_path / f"{name}.log").write_text(
            "restart-sampling: native library left out (nanobind is not installed); the Python backends do the work\n"
        )
        return 0

    monkeypatch.setattr(driver.Context, "call", call)
    assert driver.tests(context, 60) is None
    assert driver.sanitize(context, 60) is None
    assert driver.profile(context, 60) is None
    assert driver.environment(context, 60) is True
    said = {(row["stage"], row["what"]): row["value"] for row in json.loads((tmp_path / "r.json").read_text())}
    assert said["tests", "result"] == "skipped: the package pytest is not installed"
    assert said["profile", "result"] == "skipped: the package typer and the package rich are not installed"
    assert said["sanitize", "result"].startswith("skipped: ")
    assert said["environment", "build of the native library"] == "native library left out (nanobind is not installed)"


@pytest.mark.parametrize(
    ("device", "visible", "name"),
    [
        ("cuda", "", "0"),
        ("cuda:1", "", "1"),
        ("cuda", "3,5", "3"),
        ("cuda:1", "3,5", "5"),
        ("cuda:0", "GPU-9a", "GPU-9a"),
    ],
)
def test_the_card_is_the_one_that_is_measured(device, visible, name, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert rows.smi_id(device) == name


def test_a_launch_is_hidden_behind_the_flush():
    """A Triton launch takes up to 100 µs of the host; the flush takes twice that even at the 4.8 TB/s of an H200."""
    assert measure.FLUSH_BYTES / 4.8e12 > 2 * 100e-6


@pytest.mark.slow
def test_a_dry_run_measures_everything(tmp_path):
    """Kernels, launches and images at tiny sizes on the CPU: every row has its key, and results are copied to $OUT."""
    stages = "environment,kernels,launches,images,sanitize"
    arguments = ("--device", "cpu", "--quick", "--stages", stages, "--out", str(tmp_path / "results"))
    done = call(*arguments, out=tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout, done.stdout
    found = json.loads((tmp_path / "results" / "gpu_cpu.json").read_text())
    assert {row["stage"] for row in found} == set(stages.split(","))
    assert all({*rows.KEY, "unit", "card", "torch", "triton", "commit"} <= set(row) for row in found)
    keys = [tuple(row[name] for name in rows.KEY) for row in found]
    assert len(keys) == len(set(keys))
    assert {"bandwidth", "normals", "launches per trajectory", "images per second"} <= {row["what"] for row in found}
    assert json.loads((tmp_path / "out" / "gpu_cpu.json").read_text()) == found
    assert "images per second" in (tmp_path / "out" / "logs.txt").read_text()


def test_a_row_replaces_the_one_with_its_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OUT", raising=False)
    path = tmp_path / "r.json"
    made = rows.Rows(path, "kernels", 60)
    made.add("a", [1.0, 2.0, 3.0], "GB/s", case="64 MB", variant="copy")
    made.add("b", 7)
    made.add("a", [4.0, 6.0], "GB/s", case="64 MB", variant="copy")
    found = json.loads(path.read_text())
    assert [(row["what"], row.get("median"), row.get("value"), row.get("n")) for row in found] == [
        ("b", None, 7, None),
        ("a", 5.0, None, 2),
    ]


def test_a_stage_that_hangs_is_ended_and_said_so(tmp_path, capsys):
    context = driver.Context("cpu", True, tmp_path / "r.json", tmp_path)
    assert context.call("sleep", [sys.executable, "-c", "print(1); import time; time.sleep(60)"], 5) == 124
    assert "[sleep] status 124" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Odd Card", "odd-card"),
    ],
)
def test_results_are_named_after_the_card(name, slug, monkeypatch):
    monkeypatch.setattr(rows, "nvidia_smi", lambda query, device: name)
    assert rows.card_slug("cuda") == slug
    assert rows.card_slug("cpu") == "cpu"


def test_a_trace_is_summed_up():
    """Two kernels overlap, a gap, a copy; launches and waits are counted by the names of the runtime's calls."""

    def event(cat, name, ts, dur):
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}

    seen = measure.summarize(
        [
            event("kernel", "conv", 10.0, 10.0),
            event("kernel", "step_kernel", 15.0, 10.0),
            event("gpu_memcpy", "Memcpy HtoD", 30.0, 5.0),
            event("cuda_runtime", "cudaLaunchKernel", 1.0, 1.0),
            event("cuda_driver", "cuLaunchKernelEx", 2.0, 1.0),
            event("cuda_runtime", "cudaGraphLaunch", 3.0, 1.0),
            event("cuda_runtime", "cudaMemcpyAsync", 4.0, 1.0),
            event("cuda_runtime", "cudaStreamSynchronize", 5.0, 1.0),
            event("cuda_runtime", "cudaDeviceSynchronize", 50.0, 1.0),
            event("cpu_op", "aten::conv2d", 0.0, 9.0),
        ]
    )
    assert (seen.wall_us, seen.busy_us, len(seen.kernels)) == (25.0, 20.0, 3)
    assert (seen.launches, seen.waits) == (4, 1)
    assert seen.share() == pytest.approx(10 / 25)
    assert measure.summarize([]).share() == 0.0


def test_outcomes_are_read_from_a_log_that_may_be_cut_short():
    plain = "tests/test_a.py::test_x[1-2] PASSED      [ 50%]\ntests/test_a.py::test_y SKIPPED (no GPU)   [100%]\n"
    parallel = (
        "[gw0] [ 33%] PASSED tests/test_a.py::test_x[a b] \n[gw1] [ 66%] FAILED tests/test_a.py::test_y \n"
        "tests/test_a.py::test_z \nFAILED tests/test_a.py::test_y - AssertionError: 1 != 2\n"
    )
    assert driver.outcomes(plain) == ({"passed": 1, "skipped": 1}, [])
    counts, failing = driver.outcomes(parallel)
    assert (counts, failing) == ({"passed": 1, "failed": 1}, ["tests/test_a.py::test_y: AssertionError: 1 != 2"])
    counts, failing = driver.outcomes("ERROR tests/test_a.py::test_q - RuntimeError: boom\n")
    assert failing == ["tests/test_a.py::test_q: RuntimeError: boom"]


def test_the_tests_of_the_suite_exist():
    for group in driver.TESTS.values():
        for name in group.files:
            assert driver.test_file(name).exists(), name
    *others, last = driver.TESTS.values()
    assert last.markers == "compiles"  # what takes longest comes when all else is known
    assert all("not compiles" in group.markers for group in others)


def test_the_page_explains_every_row():
    """Every name that the code gives a row is in the table of docs/gpu.md."""
    page = (HERE.parents[1] / "docs" / "gpu.md").read_text()
    found = set()
    for path in HERE.glob("*.py"):
        text = path.read_text()
        found |= set(re.findall(r'rows\.add\(\s*f?"([^"{]+?),? ?(?:\{|")', text))
        found |= set(re.findall(r'context\.note\(\s*"\w+", "([^"]+)"', text))
    assert {"images per second", "bandwidth", "GPU busy", "build of the native library"} <= found
    assert sorted(what for what in found - {"result"} if f"`{what}" not in page) == []
    assert all(f"make gpu-{step}" in page for step in driver.STEPS)
    assert all(re.search(rf"^\| {stage.name} ", page, re.MULTILINE) for stage in driver.STAGES)


def test_the_page_shows_the_commands_that_the_program_runs():
    from restart_sampling.experiments import profile as profiling

    page = (HERE.parents[1] / "docs" / "gpu.md").read_text().splitlines()
    job = profiling.job_command("python", dict(preset="fashion-mnist-43", batches=1, tool="job"))
    for nvtx in (True, False):
        nsys = profiling.nsys_command("nsys", Path("profile/restart"), job, nvtx)
        ncu = profiling.ncu_command("ncu", Path("profile/step"), job, nvtx=nvtx)
        assert f"    {shlex.join(nsys)}" in page
        assert f"    {shlex.join(ncu)}" in page
    stats = profiling.nsys_stats_command("nsys", Path("profile/restart.nsys-rep"))
    assert f"    {shlex.join(stats)}" in page
