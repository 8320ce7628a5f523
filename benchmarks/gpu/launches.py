r"""Launches, GPU kernels, waits and allocations of one trajectory, by how evaluations are launched.

Counted by the profiler (CUDA activities), by PyTorch's synchronization check and by the caching allocator. "besides the
network" are GPU kernels of the trajectory less those of NFE network calls alone."""

from __future__ import annotations

import torch
from measure import allocations, counted_waits, skip, stage_options, synchronize, trace
from networks import Runs, denoiser, plan
from rows import Rows

WAYS = ("paper", "eager", "step", "loop", "trajectory", "while")


def main() -> None:
    options, device = stage_options(__doc__ or "")
    rows = Rows(options.results, "launches", options.seconds, options.device)
    batch = 2 if options.quick else 16
    dtype = "fp32" if device.type == "cpu" else "bf16"
    runs = Runs(denoiser(options.quick), plan(options.quick), batch, device, dtype)
    runs("eager")
    nfe, case = runs.sampler.plan.nfe, f"{dtype} batch {batch}"
    evaluation = runs.sampler._evaluation(batch)
    m = evaluation.machine

    @torch.inference_mode()
    def network() -> None:
        runs.sampler.network(m.net_in, m.c_noise, evaluation.labels)

    network_kernels = len(trace(network, device).kernels)
    rows.add("GPU kernels per evaluation", network_kernels, case=case, way="network alone")
    for way in WAYS:
        if rows.left() < 5:
            skip(rows, "launches", "no time left", case=case, way=way)
            continue
        try:
            runs(way)  # captures, compiles
        except Exception as error:
            skip(rows, "launches", f"{type(error).__name__}: {error}"[:200], case=case, way=way)
            continue
        if runs.note:
            skip(rows, "launches", runs.note, case=case, way=way)
            continue
        seen = trace(lambda way=way: runs(way), device)
        rows.add("launches per trajectory", seen.launches, case=case, way=way, nfe=nfe)
        rows.add("launches per evaluation", seen.launches / nfe, case=case, way=way)
        rows.add("GPU kernels per evaluation", len(seen.kernels) / nfe, case=case, way=way)
        rows.add(
            "kernels besides the network, per evaluation", len(seen.kernels) / nfe - network_kernels, case=case, way=way
        )
        with counted_waits(device) as waits:
            runs(way)
        rows.add("waits per trajectory", len(waits), case=case, way=way, where=sorted(set(waits))[:4])
        if way == "paper":
            continue
        with torch.inference_mode():  # the trajectory alone: neither the load of the batch nor its result
            (entry,) = runs.sampler._entries(runs.sampler.table)
            evaluation.load(entry, torch.arange(batch, device=device), None)
            synchronize(device)
            before = allocations(device)
            with counted_waits(device) as waits:
                runs.sampler.executor.run(evaluation, entry.spans)
            rows.add("allocations per evaluation", (allocations(device) - before) / nfe, case=case, way=way)
            rows.add("waits between load and result", len(waits), case=case, way=way)
            synchronize(device)


if __name__ == "__main__":
    main()
