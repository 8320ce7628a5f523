"""The stage environment: what the other rows were measured on (card, driver, clocks, memory, versions)."""

from __future__ import annotations

import os
import platform

import torch
from measure import stage_options
from rows import Rows, _version, nvidia_smi

QUERIES = {
    "clocks now (SM, memory)": "clocks.sm,clocks.mem",
    "clocks at most (SM, memory)": "clocks.max.sm,clocks.max.mem",
    "power limit": "power.limit",
    "memory": "memory.total",
    "temperature": "temperature.gpu",
}
PACKAGES = ("numpy", "nvtx", "cuda-bindings", "nanobind", "pytest", "scipy", "hypothesis")


def main() -> None:
    options, device = stage_options(__doc__ or "")
    rows = Rows(options.results, "environment", options.seconds, options.device)
    rows.add("python", platform.python_version())
    rows.add("CPU cores", os.cpu_count() or 0)
    for package in PACKAGES:
        rows.add(package, _version(package) or "missing")
    rows.add("CUDA of torch", str(torch.version.cuda))
    for what, query in QUERIES.items():
        rows.add(what, nvidia_smi(query, options.device) or "unknown")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        rows.add("multiprocessors", properties.multi_processor_count)
        rows.add("L2", properties.L2_cache_size / 2**20, "MiB")
    import restart_bindings
    import restart_kernels

    rows.add("backends", ", ".join(restart_kernels.available_backends(device)))
    rows.add("native library", restart_bindings.reason(device.type) or "built")


if __name__ == "__main__":
    main()
