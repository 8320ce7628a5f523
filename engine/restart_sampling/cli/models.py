"""`restart-sampling models`: the bundled models and what is inside a model file."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    name: Annotated[
        str | None, typer.Argument(help="A bundled name or a model file to describe, or the word inspect.")
    ] = None,
    file: Annotated[str | None, typer.Argument(help="After inspect: the model file to look into.")] = None,
) -> None:
    """List the bundled models, describe one, or say what is inside a model file (models inspect FILE).

    inspect executes nothing of the file. It exits with 1 if the file cannot be loaded, and says why.
    """
    from ..errors import RestartValueError
    from ..models.registry import BUNDLED, load

    if name == "inspect":
        _inspect(file)
        return
    if file is not None:
        raise RestartValueError(f"models takes one name, got {name!r} and {file!r}; or `models inspect FILE`")
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
        if key not in ("classes", "name", "parameters", "notes"):
            typer.echo(f"{key:<11} {value}")
    for note in denoiser.info["notes"]:
        typer.echo(f"note        {note}")


def _inspect(file: str | None) -> None:
    """Print what is inside `file`; exit code 1 if it cannot be loaded."""
    from ..errors import RestartValueError
    from ..models.inspection import inspect
    from ..models.registry import find

    if file is None:
        raise RestartValueError("models inspect needs a file: restart-sampling models inspect FILE")
    result = inspect(find(file))
    for label, text in result.rows:
        typer.echo(f"{label:<11} {text}")
    if result.problem is not None:
        typer.echo(f"{'loadable':<11} no: {result.problem}")
        raise typer.Exit(1)
    typer.echo(f"{'loadable':<11} yes")


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
