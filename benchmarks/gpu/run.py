r"""Run everything that needs a GPU, in three steps of less than ten minutes each (`make gpu`; see docs/gpu.md).

    python benchmarks/gpu/run.py                         # the steps tests, kernels and images, one after the other
    python benchmarks/gpu/run.py --step kernels
    python benchmarks/gpu/run.py --stages launches,profile
    python benchmarks/gpu/run.py --list
    python benchmarks/gpu/run.py --device cpu --quick --stages kernels,launches,images --out dry    # a dry run

Every stage is a process of its own with a time limit, so a fault or a hang in one does not cost the others. Rows go to
benchmarks/results/gpu_CARD.json the moment they are measured; a rerun replaces rows with the same key. Logs are in
runs/gpu. If the environment has OUT, results and logs are copied there after each stage. It works from a bare checkout
and installs nothing: if a stage lacks something, a row says what, and the next stage runs. The exit status is 1 if a
test failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FOLDERS = ("engine", "kernels", "bindings", "tests", "benchmarks")
sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]

from rows import Rows, card_slug  # noqa: E402

SECONDS = 570  # of a step


class Group(NamedTuple):
    """Test files of one call of pytest, as ROOM/NAME for tests/ROOM/test_NAME.py, and the markers of their tests."""

    files: tuple[str, ...]
    markers: str = "not compiles and not slow"


TESTS = {
    "kernels and graphs": Group(
        (
            *("kernels/philox", "kernels/row", "kernels/pixels", "jobs/ring", "sampler/devices"),
            *("sampler/graph", "sampler/continuous", "sampler/while_graph"),
        )
    ),
    "more": Group(("kernels/norm", "models/fused_norms", "sampler/sampler", "kernels/native_cuda", "sampler/network")),
    "compiled networks": Group(("sampler/network", "sampler/graph"), "compiles"),  # minutes of inductor: last
}


class Stage(NamedTuple):
    """A part of a step.

    `run(context, seconds)` returns whether it went well, or None if it could not run; `seconds` is its share of the
    step's time.
    """

    name: str
    about: str
    seconds: float
    run: Callable[[Context, float], bool | None]


class Context(NamedTuple):
    """What a run was asked for, and where its results and logs go."""

    device: str
    quick: bool
    results: Path
    logs: Path

    def call(self, name: str, command: list[str], seconds: float) -> int:
        """Run a command with its output in logs/NAME.log; return its status, 124 if its time was over."""
        log = self.logs / f"{name}.log"
        environment = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONPATH=os.pathsep.join(str(ROOT / f) for f in FOLDERS))
        with log.open("w") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = 124
        lines = log.read_text(errors="replace").splitlines()
        print("\n".join(lines[-60:]), flush=True)
        if status:
            print(f"[{name}] status {status}; all of it is in {log}", flush=True)
        return status

    def script(self, name: str, seconds: float) -> bool:
        """Run benchmarks/gpu/NAME.py, which stops by itself in time; return whether it went well."""
        command = [sys.executable, str(HERE / f"{name}.py"), "--device", self.device, "--results", str(self.results)]
        command += ["--logs", str(self.logs), "--seconds", str(max(5, seconds - 15)), *["--quick"] * self.quick]
        return self.call(name, command, seconds) == 0

    def note(self, stage: str, what: str, text: str | float) -> None:
        """Write a row of a stage that has no script of its own."""
        Rows(self.results, stage, 0, self.device).add(what, text)


def missing(*packages: str, programs: tuple[str, ...] = ()) -> str:
    """Return which of these are not installed, in words; "" if all are."""
    absent = [f"the package {name}" for name in packages if find_spec(name) is None]
    absent += [f"the program {name}" for name in programs if shutil.which(name) is None]
    return f"{' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} not installed" if absent else ""


def environment(context: Context, seconds: float) -> bool:
    """Build the native library in place, and write down what the rows are measured on."""
    if context.device.startswith("cuda"):
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        status = context.call("build", command, seconds - 20)
        log = (context.logs / "build.log").read_text(errors="replace")
        left_out = re.findall(r"native .* left out \(.*\)", log)
        said = left_out[0] if left_out else "ok" if status == 0 else f"failed ({status})"
        context.note("environment", "build of the native library", said)
    return context.script("environment", 60)


def test_file(name: str) -> Path:
    """Return the path of tests/ROOM/test_NAME.py for ROOM/NAME."""
    room, _, file = name.partition("/")
    return ROOT / "tests" / room / f"test_{file}.py"


def tests(context: Context, seconds: float) -> bool | None:
    """Run the tests that need a GPU, those of the kernels and graphs first.

    Outcomes are read from the log, so if the time runs out, what was tested until then counts.
    """
    if absent := missing("pytest"):
        context.note("tests", "result", f"skipped: {absent}")
        return None
    end, good = time.monotonic() + seconds, True
    for group, (names, markers) in TESTS.items():
        left = end - time.monotonic()
        if left < 15:
            context.note("tests", group, "skipped: no time left")
            continue
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--device", context.device]
        command += ["-o", "faulthandler_timeout=120", "-m", markers]
        command += [str(test_file(name)) for name in names]
        if find_spec("xdist") is not None:
            command += ["-n", "6", "--dist", "loadfile" if group == "more" else "load"]
        status = context.call(f"tests-{group.split()[0]}", command, left)
        counts, failing = outcomes((context.logs / f"tests-{group.split()[0]}.log").read_text(errors="replace"))
        said = {0: "passed", 124: "stopped: no time left"}.get(status, f"failed ({status})")
        context.note("tests", group, said)
        context.note("tests", f"{group}, counts", ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))
        context.note("tests", f"{group}, failing", "\n".join(failing) or "none")
        good = good and not failing and status in (0, 124)
    return good


def outcomes(log: str) -> tuple[Counter[str], list[str]]:
    """Return how many tests had each outcome, and the failing ones, from a verbose log of pytest or pytest-xdist."""
    word = r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)"
    done = re.findall(
        rf"^(?:\[gw\d+\] \[ *\d+%\] {word} (\S+::.+)|(\S+::.+?) {word}\b.*\[ *\d+%\])\s*$", log, re.MULTILINE
    )
    found = {(before or after).strip(): (first or last).lower() for first, before, after, last in done}
    why = dict(re.findall(r"^(?:FAILED|ERROR) (\S+::.+?) - (.*)$", log, re.MULTILINE))
    failing = [name for name, outcome in found.items() if outcome in ("failed", "error")]
    failing += [name for name in why if name not in found]
    return Counter(found.values()), [f"{name}: {why.get(name, '')[:200]}" for name in failing]


def sanitize(context: Context, seconds: float) -> bool | None:
    """Run compute-sanitizer: memcheck, then racecheck if there is time for it."""
    import restart_bindings

    absent = restart_bindings.reason("cuda") if context.device.startswith("cuda") else "the device is no GPU"
    if absent := absent or missing(programs=("compute-sanitizer",)):
        context.note("sanitize", "result", f"skipped: {absent}")
        return None
    end, clean = time.monotonic() + seconds, True
    for tool in ("memcheck", "racecheck"):
        left = end - time.monotonic()
        if left < 15:
            context.note("sanitize", tool, "skipped: no time left")
            continue
        command = [sys.executable, str(HERE / "sanitize.py"), "--tool", tool]
        status = context.call(f"sanitize-{tool}", command, left)
        said = {0: "clean", 124: "stopped: no time left"}.get(status, f"failed ({status})")
        context.note("sanitize", tool, said)
        clean = clean and status in (0, 124)
    return clean


def profile(context: Context, seconds: float) -> bool | None:
    """Run `restart-sampling profile` with each of its tools; PyTorch's table goes to gpu_CARD_profile.txt."""
    if absent := missing("typer", "rich"):
        context.note("profile", "result", f"skipped: {absent}")
        return None
    end = time.monotonic() + seconds
    for tool in ("torch", "nsys", "ncu"):
        cuda, left = context.device.startswith("cuda"), end - time.monotonic()
        absent = "the device is no GPU" if not cuda and tool != "torch" else ""
        absent = absent or (missing(programs=(tool,)) if tool != "torch" else "")
        if absent or left < 15:
            context.note("profile", tool, f"skipped: {absent or 'no time left'}")
            continue
        command = [sys.executable, "-m", "restart_sampling", "profile", "--preset", "fashion-mnist-43"]
        command += ["--device", context.device, "--tool", tool, "--out", str(context.logs / "profile")]
        name = f"profile-{tool}"
        status = context.call(name, command, left)
        context.note("profile", tool, "ok" if status == 0 else f"failed ({status})")
        if status == 0 and tool == "torch":
            table = context.results.with_name(f"{context.results.stem}_profile.txt")
            shutil.copy(context.logs / f"{name}.log", table)
    return True


def script(name: str) -> Callable[[Context, float], bool]:
    return lambda context, seconds: context.script(name, seconds)


STAGES = (
    Stage("environment", "card, driver, versions; builds the native library in place", 110, environment),
    Stage("tests", "the suite's GPU tests: pytest --device cuda", 370, tests),
    Stage("sanitize", "compute-sanitizer on the native CUDA kernels", 90, sanitize),
    Stage("kernels", "copy bandwidth, the fused row by kind, normals", 200, script("kernels")),
    Stage("launches", "launches, waits and allocations per trajectory and evaluation", 130, script("launches")),
    Stage("profile", "restart-sampling profile", 120, profile),
    Stage(
        "images", "images/s by batch, precision and mode; GPU busy, the sampler's share, memory", 450, script("images")
    ),
)
# Each begins with the environment: a step may be the first on its machine.
STEPS = {
    "tests": ("environment", "tests", "sanitize"),
    "kernels": ("environment", "kernels", "launches", "profile"),
    "images": ("environment", "images"),
}


def main() -> int:
    names = [stage.name for stage in STAGES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--step", choices=tuple(STEPS), help="one of the three; default: all, in order")
    parser.add_argument("--stages", help=f"these alone, comma-separated, of {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for a step, or the stages named")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the code")
    parser.add_argument("--list", action="store_true", help="name the stages and stop")
    options = parser.parse_args()
    if options.list:
        for step, members in STEPS.items():
            print(f"{step}:")
            for stage in STAGES:
                if stage.name in members:
                    print(f"  {stage.name:12} {stage.seconds:4.0f} s  {stage.about}")
        return 0
    if options.stages is not None and options.step is not None:
        parser.error("give --step or --stages, not both")
    if options.stages is not None:
        steps = {"stages": tuple(name.strip() for name in options.stages.split(","))}
    else:
        steps = {name: STEPS[name] for name in ([options.step] if options.step else STEPS)}
    if unknown := {name for members in steps.values() for name in members} - set(names):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")

    results = options.out / f"gpu_{card_slug(options.device)}.json"
    logs = ROOT / "runs" / "gpu" if options.out == ROOT / "benchmarks" / "results" else options.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    if out := os.environ.get("OUT"):
        Path(out).mkdir(parents=True, exist_ok=True)
    context = Context(options.device, options.quick, results, logs)
    good = True
    for step, members in steps.items():
        print(f"\n##### {step}", flush=True)
        stages = [stage for stage in STAGES if stage.name in members]
        good = run_step(context, stages, options.seconds) and good
    return 0 if good else 1


def run_step(context: Context, stages: list[Stage], allowed: float) -> bool:
    """Run stages one after the other in `allowed` seconds; return whether no test failed."""
    started, went_well = time.monotonic(), {}
    for i, stage in enumerate(stages):
        left = allowed - (time.monotonic() - started)
        later = sum(s.seconds for s in stages[i + 1 :])
        seconds = min(left, max(stage.seconds, left - later))  # with what earlier stages did not need
        print(f"\n=== {stage.name}: {stage.about} (at most {seconds:.0f} s)", flush=True)
        if left < 15:
            print("skipped: no time left", flush=True)
            continue
        began = time.monotonic()
        went_well[stage.name] = stage.run(context, seconds)
        print(f"=== {stage.name}: {time.monotonic() - began:.0f} s", flush=True)
        hand_over(context)
    print(f"\n{context.results}: {time.monotonic() - started:.0f} s in all")
    for stage in stages:
        said = {True: "ok", False: "FAILED", None: "skipped"}[went_well.get(stage.name)]
        print(f"  {stage.name:12} {said}")
    return all(went_well.get(name) is not False for name in ("tests", "sanitize"))


def hand_over(context: Context) -> None:
    """Copy results and one file with all logs to $OUT."""
    target = os.environ.get("OUT")
    if not target:
        return
    folder = Path(target)
    for file in context.results.parent.glob(f"{context.results.stem}*"):
        shutil.copy(file, folder / file.name)
    with (folder / "logs.txt").open("w") as out:
        for log in sorted(context.logs.glob("*.log")):
            out.write(f"===== {log.name}\n{log.read_text(errors='replace')[-400_000:]}\n")


if __name__ == "__main__":
    sys.exit(main())
