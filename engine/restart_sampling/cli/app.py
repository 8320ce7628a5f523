"""The application of all commands. An error is one line and exit code 2; incomplete results are exit code 1."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from ..common.errors import RestartError
from ..common.terminal import error, prepare_streams, say
from ..common.version import __version__
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


class Commands(TyperGroup):
    """The commands. Whatever ends one of them early is reported in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; exit with code 2 for an error of the user or the system, with 130 for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except RestartError as problem:
            error(problem)
            sys.exit(2)
        except BrokenPipeError:
            raise
        except OSError as problem:  # of a command that cannot say more about it
            where = "" if problem.filename is None else f"{problem.filename}: "
            error(f"{where}{problem.strerror or problem}")
            sys.exit(2)
        except KeyboardInterrupt:
            say("stopped", sys.stderr)
            sys.exit(130)


app = typer.Typer(
    cls=Commands,
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
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
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
    """Run the command line with `arguments`, by default those of the process."""
    prepare_streams()
    app(args=arguments)
