"""The command line, one file per command. Errors are one line and exit code 2; incomplete results exit 1."""

from __future__ import annotations

import sys

import typer

from ..errors import RestartError
from ..version import __version__
from .bench import bench
from .convert import convert
from .generate import generate
from .models import models
from .plan import plan
from .presets import presets
from .profile import profile
from .report import report
from .score import score
from .status import status
from .tune import tune
from .verify import verify

app = typer.Typer(
    name="restart-sampling",
    help="Restart sampling for diffusion models: plan it, then draw it.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


app.command()(bench)
app.command()(generate)
app.command()(plan)
app.command()(presets)
app.command()(models)
app.command()(convert)
app.command()(profile)
app.command()(report)
app.command()(score)
app.command()(status)
app.command()(tune)
app.command()(verify)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `restart-sampling` command."""
    try:
        app(args=arguments)
    except RestartError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
