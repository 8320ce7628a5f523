r"""The stage launches: launches, GPU kernels, waits and allocations of one trajectory, by launch mode.

They are counted by the profiler (CUDA activities), by PyTorch's synchronization check and by the caching allocator. The
kernels "besides the network" are those of the trajectory less those of NFE network calls alone.
"""

from __future__ import annotations

import torch
from measure import allocations, counted_waits, skip, stage_options, synchronize, trace
from networks import Runs, denoiser, plan
from rows import Rows

VARIANTS = ("paper", "eager", "step", "loop", "trajectory", "while")


def main() -> None:
    options, device = stage_options(__doc__ or "")
    rows = Rows(options.results, "launches", options.seconds, options.device)
    batch = 2 if options.quick else 16
    dtype = "fp32" if device.type == "cpu" else "bf16"
    runs = Runs(denoiser(options.quick), plan(options.quick), batch, device, dtype)
    runs("eager")
    nfe, case = runs.sampler.plan.nfe, f"{dtype} batch {batch}"
    evaluation = runs.sampler.workspace.evaluation(batch)

    @torch.inference_mode()
    def network() -> None:
        evaluation.call_network()

    network_kernels = len(trace(network, device).kernels)
    rows.add("GPU kernels per evaluation", network_kernels, case=case, variant="network alone")
    for variant in VARIANTS:
        if rows.left() < 5:
            skip(rows, "launches", "no time left", case=case, variant=variant)
            continue
        try:
            runs(variant)  # captures, compiles
        except Exception as error:  # whatever one variant raises must not cost the others
            skip(rows, "launches", f"{type(error).__name__}: {error}"[:200], case=case, variant=variant)
            continue
        if runs.note:
            skip(rows, "launches", runs.note, case=case, variant=variant)
            continue
        seen = trace(lambda variant=variant: runs(variant), device)
        rows.add("launches per trajectory", seen.launches, case=case, variant=variant, nfe=nfe)
        rows.add("launches per evaluation", seen.launches / nfe, case=case, variant=variant)
        rows.add("GPU kernels per evaluation", len(seen.kernels) / nfe, case=case, variant=variant)
        rows.add(
            "kernels besides the network, per evaluation",
            len(seen.kernels) / nfe - network_kernels,
            case=case,
            variant=variant,
        )
        with counted_waits(device) as waits:
            runs(variant)
        rows.add("waits per trajectory", len(waits), case=case, variant=variant, where=sorted(set(waits))[:4])
        if variant == "paper":
            continue
        with torch.inference_mode():  # the trajectory alone: neither the load of the batch nor its result
            (entry,) = runs.sampler.workspace.entries(runs.sampler.table)
            evaluation.load(entry, torch.arange(batch, device=device))
            synchronize(device)
            before = allocations(device)
            with counted_waits(device) as waits:
                runs.sampler.executor.run(evaluation, entry.spans)
            rows.add("allocations per evaluation", (allocations(device) - before) / nfe, case=case, variant=variant)
            rows.add("waits between load and result", len(waits), case=case, variant=variant)
            synchronize(device)


if __name__ == "__main__":
    main()
