"""`restart-sampling profile`: where the time of a run goes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import BackendError, RestartValueError
from .model_options import MODEL as HELP
from .model_options import GuideOptions, PipelineOptions, opens_pipeline
from .options import Batch, EngineOptions, PlanOptions, batch_size, check_least, given, with_options

TOOLS = ("auto", "torch", "nsys", "ncu")
JOB = "job"  # what nsys and ncu run: the marked job alone
MODEL, PRESET = "fashion-mnist", "fashion-mnist-22"


@with_options
def profile(
    *,
    model: Annotated[str | None, typer.Option(help=f"{HELP}.")] = None,
    pipeline: PipelineOptions,
    guided: GuideOptions,
    asked: PlanOptions,
    batch: Batch = None,
    batches: Annotated[int, typer.Option(help="Batches that are profiled.")] = 1,
    engine: EngineOptions,
    out: Annotated[Path, typer.Option(help="Folder for the trace.")] = Path("profile"),
    tool: Annotated[
        str, typer.Option(help="auto (nsys where it is installed and the device is CUDA), torch, nsys or ncu.")
    ] = "auto",
) -> None:
    """Run a short job under a profiler: a table of launches, time and bandwidth, and a trace for a browser.

    Where no CUDA device is visible, --tool nsys and --tool ncu print the command that they would run.
    """
    from ..common.devices import select_device, visible_gpus
    from ..experiments.profile.commands import job_command

    if tool not in (*TOOLS, JOB):
        raise RestartValueError(f"--tool must be one of {', '.join(TOOLS)}, got {tool!r}")
    check_least({"batches": (batches, 1)})
    external = tool in ("nsys", "ncu")
    if external and engine.device is not None and not engine.device.startswith("cuda"):
        raise BackendError(
            f"--tool {tool} cannot run: {tool} profiles CUDA devices, not {engine.device}; use --tool torch"
        )
    only_shown = external and not visible_gpus()
    if external and not only_shown and shutil.which(tool) is None:
        raise BackendError(f"--tool {tool} cannot run: {tool} was not found on the PATH; use --tool torch")
    opened, told, dtype = None, pipeline.told(), engine.dtype or "fp32"
    if not only_shown and opens_pipeline(model or MODEL, told):  # its noise levels decide the plan
        opened = guided.load(model or MODEL, "cpu", told, dtype)
    plan = asked.plan(fallback=PRESET, own=None if opened is None else opened.info["levels"])
    guided.check([plan])
    options = {
        "model": model,
        **given(pipeline),
        **given(guided),
        **given(asked),
        "batch": batch,
        "batches": batches,
        **given(engine),
    }
    options["tool"] = JOB
    if only_shown:
        from ..experiments.profile.tools import show_commands

        show_commands(tool, out, job_command("python", options))
        return
    device = str(select_device(engine.device))
    if tool == "auto":
        tool = "nsys" if device.startswith("cuda") and shutil.which("nsys") else "torch"

    from ..experiments.profile import tools
    from ..experiments.profile.job import Job
    from ..sampler.sampler import Sampler

    denoiser = opened or guided.load(model or MODEL, "cpu", told, dtype)
    chosen = {"dtype": "fp32", **given(engine), "device": device}
    size = batch_size(batch or "auto", denoiser, plan, 64 if device == "cpu" else 4096, device, chosen["dtype"])
    job = Job(Sampler(denoiser, plan, size, **chosen), batches)
    if tool == JOB:
        job.warm_up()
        with job.announced():
            job.run()
        return
    command = job_command(sys.executable, {**options, "batch": job.sampler.batch_size, "device": device})
    out.mkdir(parents=True, exist_ok=True)
    if tool == "ncu":
        tools.by_ncu(out, command)
    elif tool == "nsys":
        tools.by_nsys(out, job, command)
    else:
        tools.by_torch(out, job)
