"""What the commands of this room share: a console, and errors as one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

from ...common.errors import RestartError
from ...common.terminal import plain_console

Options = ParamSpec("Options")
console = plain_console(stderr=True)


def errors_in_one_line(command: Callable[Options, None]) -> Callable[Options, None]:
    """Return `command` with a RestartError printed as one line, and exit code 2 after it."""

    @wraps(command)
    def run(*given: Options.args, **options: Options.kwargs) -> None:
        try:
            command(*given, **options)
        except RestartError as error:
            console.print(f"error: {error}", style="red")
            raise typer.Exit(2) from None

    return run
