"""Train a small network with EDM preconditioning: DDPM++, or EDM2's magnitude-preserving U-Net.

    python -m restart_sampling.experiments.training.train --data fashion-mnist --out runs/fm --export fm.safetensors

Stop it at any time; `--resume` goes on from the last checkpoint. `--minutes 0 --resume --export FILE` only writes
averaged weights, and with `--ema-std` those of any length, if averages were stored (`--store-steps`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ...common.checks import choice
from ...common.devices import select_device
from ...common.errors import RestartValueError
from ..datasets import Images, load_images
from . import loop
from .command import console, errors_in_one_line
from .export import export_network

NETWORKS = ("ddpm++", "edm2")


def network_config(
    images: Images,
    model_channels: int,
    channel_mult: str,
    num_blocks: int,
    attn_resolutions: str,
    label_dropout: float,
    network: str = "ddpm++",
    channels_per_head: int = 64,
) -> dict[str, object]:
    """Return the config of a network for `images`; `channel_mult` and `attn_resolutions` are comma-separated.

    Args:
        network: "ddpm++" or "edm2". channels_per_head: of EDM2's attention.

    Raises RestartValueError if they are not integers.
    """
    choice("--network", network, NETWORKS, error=RestartValueError)
    lists = {"channel-mult": channel_mult, "attn": attn_resolutions}
    parsed = {}
    for name, text in lists.items():
        try:
            parsed[name] = [int(part) for part in text.split(",") if part.strip()]
        except ValueError:
            raise RestartValueError(f"--{name}: expected integers like 1,2,4, got {text!r}") from None
    common = {
        "img_resolution": images.images.shape[2],
        "img_channels": images.images.shape[1],
        "label_dim": len(images.classes),
        "sigma_data": round(images.sigma_data, 3),
        "model_channels": model_channels,
        "channel_mult": parsed["channel-mult"],
        "num_blocks": num_blocks,
        "attn_resolutions": parsed["attn"],
        "dropout": 0.0,
    }
    common["label_dropout"] = label_dropout if images.classes else 0.0
    if network == "edm2":
        return {"class_name": "Precond", **common, "use_fp16": False, "channels_per_head": channels_per_head}
    return {"class_name": "EDMPrecond", "model_type": "SongUNet", **common}


@errors_in_one_line
def main(
    data: Annotated[
        str, typer.Option(help="fashion-mnist, an IDX file, an .npz file or a folder of pictures.")
    ] = "fashion-mnist",
    out: Annotated[Path, typer.Option(help="Folder for checkpoint.pt and loss.csv.")] = Path("runs/fm"),
    minutes: Annotated[float, typer.Option(min=0, help="Stop after this long.")] = 100.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop at this step.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step  [default: 64, or as before]")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak rate of Adam  [default: 0.002, or as before]")] = None,
    network: Annotated[str, typer.Option(help="ddpm++ or edm2.")] = "ddpm++",
    model_channels: Annotated[int, typer.Option(min=4)] = 16,
    channel_mult: Annotated[str, typer.Option(help="Width of each level over --model-channels.")] = "1,2,4",
    num_blocks: Annotated[int, typer.Option(min=1)] = 2,
    attn: Annotated[str, typer.Option(help="Resolutions with attention.")] = "7",
    channels_per_head: Annotated[int, typer.Option(min=1, help="Of the attention of edm2.")] = 64,
    label_dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Share of steps without class, for guidance.")
    ] = 0.1,
    p_mean: Annotated[float, typer.Option(help="Mean of ln sigma.")] = -1.2,
    p_std: Annotated[float, typer.Option(help="Standard deviation of ln sigma.")] = 1.2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    save_minutes: Annotated[float, typer.Option(min=0, help="Time between checkpoints.")] = 5.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the network.")] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Compute the network in bfloat16; weights stay float32.")
    ] = False,
    store_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps between stored averages, which --ema-std can combine.")
    ] = None,
    ema_std: Annotated[
        float | None, typer.Option(help="Length of the average to export, sigma_rel  [default: 0.1]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    export: Annotated[Path | None, typer.Option(help="Write the averaged weights here at the end (float16).")] = None,
) -> None:
    """Train a small EDM network; see the module docstring."""
    where = select_device(device)
    images = load_images(data)
    given: dict[str, Any] = {k: v for k, v in {"batch": batch, "lr": lr}.items() if v is not None}
    if resume:
        run = loop.resume(out / "checkpoint.pt", where)
        run.options = replace(run.options, **given)
    else:
        if (out / "checkpoint.pt").exists():
            raise RestartValueError(f"{out} already holds a checkpoint; add --resume to go on, or take another --out")
        config = network_config(
            images, model_channels, channel_mult, num_blocks, attn, label_dropout, network, channels_per_head
        )
        options = loop.Options(P_mean=p_mean, P_std=p_std, label_dropout=label_dropout, seed=seed, bf16=bf16, **given)
        run = loop.start(config, options, images.name, where)
    count = sum(p.numel() for p in run.network.parameters())
    console.print(f"{images.name}: {len(images.images):,} images; {count:,} parameters; step {run.step}")

    def report(run: loop.Run, loss: float, pace: float) -> None:
        console.print(f"step {run.step:6d}  loss {loss:.4f}  {pace:.3f} s/step  {run.seconds / 60:.1f} min")

    loop.train(
        run,
        images,
        out,
        minutes=minutes,
        max_steps=steps,
        save_minutes=save_minutes,
        store_steps=store_steps,
        compile=compile,
        report=report,
    )
    if export is not None:
        console.print(f"wrote {export_network(run, images, export, out, ema_std)}")


if __name__ == "__main__":
    typer.run(main)
