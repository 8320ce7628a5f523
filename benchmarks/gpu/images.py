r"""The stage images: images per second by batch, precision and launch mode, on an EDM network of CIFAR-10's size.

The network's weights are random. In each configuration all variants draw the same seeds in rotation (A B C C B A),
after each was warmed up and its images were compared: those of every graph mode must be those of eager launches to the
bit. `paper` is the float64 loop around the same network, compiled where the engine's is, so what differs is the sampler
alone. The most useful configurations come first; those for which no time is left have a row that says so.
"""

from __future__ import annotations

import gc
import time

import torch
from measure import skip, stage_options, synchronize, trace
from networks import Runs, denoiser, plan
from rows import Rows

from restart_sampling.experiments.measure.timing import interleaved, ratios

MODES = ("step", "loop", "trajectory", "while")
# dtype, batch, compiled, variants; setting up an eager network takes seconds, a compiled one half a minute
CONFIGURATIONS = (
    ("bf16", 64, "off", ("paper", "eager", "step", "loop", "trajectory", "while")),
    ("bf16", 256, "on", ("paper", "eager", "loop", "trajectory")),
    ("bf16", 1, "on", ("paper", "eager", "step", "loop", "trajectory", "while")),
    ("bf16", 16, "off", ("paper", "eager", "loop")),
    ("bf16", 1, "off", ("paper", "eager", "loop")),
    ("bf16", 256, "off", ("paper", "eager", "loop")),
    ("tf32", 256, "off", ("paper", "eager", "loop")),
    ("tf32", 64, "off", ("paper", "eager", "loop")),
    ("bf16", 64, "on", ("paper", "eager", "loop")),
    ("tf32", 1, "off", ("paper", "eager", "loop")),
    ("fp32", 64, "off", ("paper", "eager", "loop")),
    ("fp32", 256, "off", ("paper", "loop")),
    ("tf32", 256, "on", ("paper", "eager", "loop")),
    ("tf32", 64, "on", ("paper", "eager", "loop")),
    ("fp32", 1, "off", ("paper", "eager", "loop")),
    ("bf16", 16, "on", ("paper", "eager", "loop")),
)
QUICK = (("fp32", 2, "off", ("paper", "eager", "step")),)
NEEDED = {"on": 45.0, "off": 12.0}  # seconds that must be left to begin a configuration


def main() -> None:
    options, device = stage_options(__doc__ or "")
    rows = Rows(options.results, "images", options.seconds, options.device)
    model, preset = denoiser(options.quick), plan(options.quick)
    for dtype, batch, compile, variants in QUICK if options.quick else CONFIGURATIONS:
        case = f"{dtype} batch {batch}" + (" compiled" if compile == "on" else "")
        if rows.left() < (1 if options.quick else NEEDED[compile]):
            skip(rows, "images per second", "no time left", case=case)
            continue
        try:
            configuration(rows, Runs(model, preset, batch, device, dtype, compile), variants, case)
        except Exception as error:  # whatever one configuration raises must not cost the others
            skip(rows, "images per second", f"{type(error).__name__}: {error}"[:300], case=case)
        gc.collect()  # the graphs and weights of this configuration


def configuration(rows: Rows, runs: Runs, variants: tuple[str, ...], case: str) -> None:
    """Measure all variants of one configuration."""
    device, images, running = runs.device, {}, []
    for variant in variants:
        if rows.left() < 3:
            skip(rows, "images per second", "no time left", case=case, variant=variant)
            continue
        started = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        try:
            images[variant] = runs(variant)
        except Exception as error:  # whatever one variant raises must not cost the others
            skip(rows, "images per second", f"{type(error).__name__}: {error}"[:200], case=case, variant=variant)
            continue
        synchronize(device)
        rows.add("first run", time.perf_counter() - started, "s", case=case, variant=variant)
        if device.type == "cuda":
            rows.add(
                "peak memory",
                torch.cuda.max_memory_reserved(device) / 2**20,
                "MiB reserved",
                case=case,
                variant=variant,
            )
        if variant != "paper" and runs.note:
            rows.add("note", runs.note, case=case, variant=variant)
        if variant in MODES and "eager" in images:
            rows.add(
                "same bits as eager launches",
                int(torch.equal(images[variant], images["eager"])),
                case=case,
                variant=variant,
            )
        running.append(variant)

    def timed(variant: str):
        def run() -> None:
            runs(variant)
            synchronize(device)

        return run

    once = interleaved({variant: timed(variant) for variant in running}, 1, warm=0)
    total = sum(seconds[0] for seconds in once.values())
    rounds = max(2, min(10, int(min(rows.left() - 3, 20) / max(total, 1e-3))))
    rounds = rounds if device.type == "cuda" else 2
    seconds = interleaved({variant: timed(variant) for variant in running}, rounds, warm=0)
    for variant in running:
        rows.add("images per second", [runs.batch / s for s in seconds[variant]], "/s", case=case, variant=variant)
        if variant != "paper" and "paper" in running:
            q1, median, q3 = ratios(seconds["paper"], seconds[variant])
            rows.add(
                "speed over the float64 loop", median, "x", case=case, variant=variant, q1=round(q1, 3), q3=round(q3, 3)
            )
    for variant in running:
        if rows.left() < 3:
            break
        seen = trace(timed(variant), device)
        if not seen.wall_us:
            continue
        # The kernels are of a traced run, and the time is of an untraced one: tracing slows the host down.
        wall = sorted(seconds[variant])[len(seconds[variant]) // 2]
        rows.add("GPU busy", 100e-6 * seen.busy_us / wall, "%", case=case, variant=variant)
        if variant != "paper":
            rows.add("sampler's share of GPU time", 100 * seen.share(), "%", case=case, variant=variant)


if __name__ == "__main__":
    main()
