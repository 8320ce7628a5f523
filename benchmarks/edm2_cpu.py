"""What EDM2's networks cost on a CPU: the form that samplers run beside the paper's, which normalizes in every call.

    python benchmarks/edm2_cpu.py                          writes benchmarks/results/edm2_cpu.json

Both forms take turns in every round, with random weights; the ratio is that of the medians. Random weights cost what
trained ones do.
"""

from __future__ import annotations

import json
import os

import torch
from network_cpu import rounds
from where import RESULTS

from restart_sampling.models import build_network
from restart_sampling.models.family import Network

RESULT = RESULTS / "edm2_cpu.json"
SECONDS = 20.0
SIZES = {  # title → (config, batch sizes)
    "28×28 grey, 16·[1, 2, 4] channels, 2 blocks": (
        {
            "img_resolution": 28,
            "img_channels": 1,
            "label_dim": 10,
            "model_channels": 16,
            "channel_mult": [1, 2, 4],
            "num_blocks": 2,
            "attn_resolutions": [7],
            "channels_per_head": 32,
        },
        (1, 32),
    ),
    "EDM2-XXS, ImageNet-64": (
        {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "model_channels": 64},
        (1, 4),
    ),
}


def network(config: dict[str, object]) -> Network:
    """Return a network with random weights, whose gains are not 0."""
    made = build_network({"class_name": "Precond", **config}, seed=0)
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.ndim:
                parameter.fill_(0.5)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    rows = []
    for title, (config, batches) in SIZES.items():
        literal = network(config)
        sampling = literal.for_sampling().to(memory_format=torch.channels_last)  # type: ignore[operator]
        for batch in batches:
            x = torch.randn(batch, *literal.shape, generator=torch.Generator().manual_seed(0))
            labels = torch.eye(literal.label_dim)[torch.arange(batch) % literal.label_dim]
            arguments = (x, torch.zeros(1), labels)
            error = (literal(*arguments) - sampling(*arguments)).abs().max() / literal(*arguments).abs().max()
            found = rounds(
                {"paper": lambda a=arguments, f=literal: f(*a), "sampling": lambda a=arguments, f=sampling: f(*a)},
                SECONDS,
            )
            seconds = {name: values[0] for name, values in found.items()}
            row = {
                "network": title,
                "parameters": sum(p.numel() for p in literal.parameters()),
                "batch": batch,
                "threads": torch.get_num_threads(),
                "ms_paper": round(1e3 * seconds["paper"], 2),
                "ms_sampling": round(1e3 * seconds["sampling"], 2),
                "ratio": round(seconds["paper"] / seconds["sampling"], 3),
                "rounds": found["paper"][2],
                "disturbed": found["paper"][3],
                "error": float(f"{float(error):.1e}"),
                "torch": torch.__version__,
            }
            rows.append(row)
            print(row, flush=True)
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
