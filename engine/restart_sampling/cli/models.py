"""`restart-sampling models`: the bundled models and what is inside a model file."""

from __future__ import annotations

from typing import Annotated

import typer

from ..common.terminal import one_line, say


def models(
    name: Annotated[
        str | None, typer.Argument(help="A bundled name or a model file to describe, or the word inspect.")
    ] = None,
    file: Annotated[str | None, typer.Argument(help="After inspect: the model file to look into.")] = None,
) -> None:
    """List the bundled models, describe one, or say what is inside a model file (models inspect FILE).

    inspect executes nothing of the file. It exits with 1 if the file cannot be loaded, and says why.
    """
    from ..common.errors import RestartValueError
    from ..models.registry import BUNDLED, load_model

    if name == "inspect":
        _inspect(file)
        return
    if file is not None:
        raise RestartValueError(f"models takes one name, got {name!r} and {file!r}; or `models inspect FILE`")
    if name is None:
        for bundled in BUNDLED:
            denoiser = load_model(bundled)
            card = denoiser.info["card"]
            count = sum(p.numel() for p in denoiser.parameters)
            say(f"{bundled}: {_shape(denoiser.shape)}, {denoiser.label_dim} classes, {count / 1e6:.2f} M parameters")
            if card.get("summary"):
                say(one_line(f"  {card['summary']}"))
        return
    denoiser = load_model(name)
    card = denoiser.info["card"]
    _row("model", denoiser.name)
    _row("sample", _shape(denoiser.shape))
    _row("classes", ", ".join(denoiser.classes) or denoiser.label_dim or "none")
    _row("parameters", f"{sum(p.numel() for p in denoiser.parameters):,}")
    levels = denoiser.parameterization
    _row("network", f"{levels.name}, sigma {levels.sigma_min:g} .. {levels.sigma_max:g}")
    _row("sha256", denoiser.info["sha256"])
    for key, value in card.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if not isinstance(v, (list, dict)))
        if key not in ("classes", "name", "parameters", "notes"):
            _row(key, value)
    for note in denoiser.info["notes"]:
        _row("note", note)


def _inspect(file: str | None) -> None:
    """Print what is inside `file`; the exit code is 1 if it cannot be loaded."""
    from ..common.errors import RestartValueError
    from ..models.inspection import inspect
    from ..models.registry import find

    if file is None:
        raise RestartValueError("models inspect needs a file: restart-sampling models inspect FILE")
    result = inspect(find(file))
    for label, text in result.rows:
        _row(label, text)
    if result.problem is not None:
        _row("loadable", f"no: {result.problem}")
        raise typer.Exit(1)
    _row("loadable", "yes")


def _row(label: str, value: object) -> None:
    """Print a row, on one line whatever a file has put into it."""
    say(one_line(f"{label:<11} {value}"))


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
