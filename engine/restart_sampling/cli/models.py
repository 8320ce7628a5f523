"""`restart-sampling models`: the bundled models and what is inside a model file."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    name: Annotated[
        str | None, typer.Argument(help="A bundled name or a .safetensors file to describe.")
    ] = None,
) -> None:
    """List the bundled models, or describe one."""
    from ..models.registry import BUNDLED, load

    if name is None:
        for bundled in BUNDLED:
            denoiser = load(bundled)
            card = denoiser.info["card"]
            count = sum(p.numel() for p in denoiser.parameters)
            typer.echo(
                f"{bundled}: {_shape(denoiser.shape)}, {denoiser.label_dim} classes, {count / 1e6:.2f} M parameters"
            )
            if card.get("summary"):
                typer.echo(f"  {card['summary']}")
        return
    denoiser = load(name)
    card = denoiser.info["card"]
    typer.echo(f"model       {denoiser.name}")
    typer.echo(f"sample      {_shape(denoiser.shape)}")
    typer.echo(f"classes     {', '.join(denoiser.classes) or denoiser.label_dim or 'none'}")
    typer.echo(f"parameters  {sum(p.numel() for p in denoiser.parameters):,}")
    levels = denoiser.parameterization
    typer.echo(f"network     {levels.name}, sigma {levels.sigma_min:g} .. {levels.sigma_max:g}")
    typer.echo(f"sha256      {denoiser.info['sha256']}")
    for key, value in card.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if not isinstance(v, (list, dict)))
        if key not in ("classes", "name", "parameters"):
            typer.echo(f"{key:<11} {value}")


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
