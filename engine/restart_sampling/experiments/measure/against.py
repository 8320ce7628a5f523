r"""Time two revisions of this package against each other, the engine's candidates in turns.

Each revision has a process of its own: the working tree as it is, and the other one checked out into a temporary
worktree. Each process is given the options of a plan and draws the same batch, in the order A B B A …, so a ratio is
taken within a round. The native library is not built: if its sources did not change its files are copied; otherwise the
older revision's step runs on the reference, and a note says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from ...common.errors import BackendError, ConfigError
from ...plan.plan import Plan
from .rows import Row
from .timing import quartiles, ratios

FILE = "against.jsonl"
ROOTS = ("engine", "kernels", "bindings")
# What the native library is made from.
NATIVE_SOURCES = ("bindings/csrc", "CMakeLists.txt", "kernels/restart_kernels/philox/coefficients.py")

# Runs in either revision, so it uses only names that stay fixed. Whatever an older revision raises becomes a reply.
CHILD = r"""
import json, os, sys, time
talk = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
import torch
import restart_sampling as rs
model, device, dtype, batch, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
denoiser = rs.load(model, device)
labels = torch.arange(batch) % denoiser.label_dim if denoiser.label_dim else None
samplers = {}
for line in sys.stdin:
    name, options = json.loads(line)
    try:
        if options is not None:
            samplers[name] = rs.Sampler(denoiser, rs.Plan.build(**options), batch_size=batch, dtype=dtype)
        started = time.perf_counter()
        samplers[name].run(range(batch), labels)
        if device != "cpu":
            torch.cuda.synchronize(device)
        reply = {"seconds": time.perf_counter() - started, "backend": samplers[name].backend}
    except Exception as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    talk.write(json.dumps(reply) + "\n")
"""


class Revision:
    """A process that draws with the code under `root`."""

    def __init__(self, root: Path, settings: Sequence[Any]) -> None:
        paths = os.pathsep.join(str(root / folder) for folder in ROOTS)
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
            cwd=root,
        )
        self.ask, self.answer = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)

    def run(self, name: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Draw the batch once, with `options` after building the sampler.

        Returns {"seconds", "backend"} or {"error"}. Raises BackendError if the process has ended.
        """
        with suppress(BrokenPipeError):
            self.ask.write(json.dumps([name, options]) + "\n")
            self.ask.flush()
        line = self.answer.readline()
        if not line:
            raise BackendError(
                f"the process of a revision ended with status {self.process.wait()}; its errors are above"
            )
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process and wait for it."""
        self.ask.close()
        self.answer.close()
        self.process.wait()


def measure(
    revision: str,
    model: str,
    plans: Sequence[tuple[str, Plan]],
    *,
    batch: int = 64,
    dtype: str = "fp32",
    device: str = "cpu",
    rounds: int = 5,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Return a row (kind "against") for each (candidate's name, plan); `ratio` is how many times as fast this tree is.

    Raises ConfigError if this is no git checkout or there is no such revision.
    """
    say = progress or (lambda line: None)
    root = _root()
    commit = _git(root, "rev-parse", "--verify", "--short", f"{revision}^{{commit}}")
    if commit is None:
        raise ConfigError(f"--against {revision!r}: git knows no such revision; give a commit, a tag or a branch")
    settings = [str(Path(model).resolve()) if Path(model).exists() else model, device, dtype, batch, threads]
    found: list[Row] = []
    with worktree(root, commit) as other, ExitStack() as stack:
        note = copy_native(root, other, commit)
        if note:
            say(note)
        sides = {"new": Revision(root, settings), "old": Revision(other, settings)}
        for side in sides.values():
            stack.callback(side.close)
        for name, plan in plans:
            row = _compare(sides, name, plan, rounds, say)
            if row is not None:
                found.append(
                    {"kind": "against", "revision": commit, "model": model, "dtype": dtype, "batch": batch, **row}
                )
    return found


def _compare(sides: dict[str, Revision], name: str, plan: Plan, rounds: int, say: Callable[[str], None]) -> Row | None:
    """Return the row of one plan, or None if a revision cannot run it."""
    options = plan.config.to_dict()
    first = {side: revision.run(f"{name} {plan.digest}", options) for side, revision in sides.items()}
    for side, reply in first.items():
        if "error" in reply:
            say(f"{name} is left out, the {side} revision cannot run it: {reply['error']}")
            return None
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for round_ in range(rounds):
        for side in reversed(list(sides)) if round_ % 2 else sides:
            reply = sides[side].run(f"{name} {plan.digest}")
            if "error" in reply:
                say(f"{name} is left out, the {side} revision stopped: {reply['error']}")
                return None
            seconds[side].append(reply["seconds"])
    q1, ratio, q3 = ratios(seconds["old"], seconds["new"])
    return {
        "sampler": name,
        "nfe": plan.nfe,
        "network_calls": plan.network_calls,
        "plan": plan.digest,
        "ratio": round(ratio, 4),
        "ratio_q1": round(q1, 4),
        "ratio_q3": round(q3, 4),
        "seconds": round(quartiles(seconds["new"])[1], 6),
        "seconds_old": round(quartiles(seconds["old"])[1], 6),
        "backend": first["new"]["backend"],
        "backend_old": first["old"]["backend"],
        "rounds": rounds,
    }


@contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """Check a revision out into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="restart-sampling-against-") as folder:
        path = Path(folder) / "tree"
        done = subprocess.run(
            ["git", "worktree", "add", "--detach", "--quiet", str(path), commit],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ConfigError(f"git could not check out {commit}: {done.stderr.strip()}")
        try:
            yield path
        finally:
            subprocess.run(
                ["git", "worktree", "remove", "--force", str(path)], cwd=root, capture_output=True, check=False
            )


def copy_native(root: Path, other: Path, commit: str) -> str:
    """Copy the built library into `other` if its sources are the same; else return a line on what happens instead."""
    built = sorted((root / "bindings/restart_bindings").glob("_native_*.so"))
    if not built:
        return "the native library is not built: both revisions run on the reference step"
    if _git(root, "diff", "--quiet", commit, "--", *NATIVE_SOURCES) is None:
        return (
            f"the native library's sources changed since {commit}: there the step runs on the reference, so ratios are "
            f"too favourable"
        )
    target = other / "bindings/restart_bindings"
    if not target.is_dir():
        return f"revision {commit} has no native library: its step runs on the reference"
    for path in built:
        shutil.copy2(path, target)
    return ""


def _root() -> Path:
    """Return the root of this checkout. Raises ConfigError if the package is not run from one."""
    found = _git(Path(__file__).parent, "rev-parse", "--show-toplevel")
    root = Path(found) if found else None
    if root is None or not all((root / folder).is_dir() for folder in ROOTS):
        raise ConfigError(
            "--against needs a git checkout of this project to run from; the package is installed elsewhere"
        )
    return root


def _git(root: Path, *arguments: str) -> str | None:
    """Return git's answer, or None if it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()
