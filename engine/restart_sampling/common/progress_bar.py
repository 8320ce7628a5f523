"""`progress=True`: a bar on the terminal for runs from Python, moved by the sampler's callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import RestartTypeError


def check_callback(callback: Any) -> None:
    """Raise RestartTypeError for a callback that cannot be called."""
    if callback is not None and not callable(callback):
        raise RestartTypeError(
            f"callback must be a function of one Progress, got {type(callback).__name__}; for a bar use progress=True"
        )


@contextmanager
def shown(
    progress: bool, callback: Callable[[Any], None] | None, console: Any = None
) -> Iterator[Callable[[Any], None] | None]:
    """Yield the callback of a run: `callback` itself, or one that also moves a bar while the context lasts.

    Args:
        progress: whether to draw a bar.
        callback: the user's own, called first.
        console: the rich Console of the bar, by default one on standard error.

    Raises:
        RestartTypeError: `progress` is no bool, or `callback` no function.
    """
    if not isinstance(progress, bool):
        raise RestartTypeError(
            f"progress must be True or False, got {type(progress).__name__}; a function goes to callback"
        )
    check_callback(callback)
    if not progress:
        yield callback
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from .terminal import plain_console, text_column

    columns = (
        text_column("sampling"),
        BarColumn(),
        MofNCompleteColumn(),
        text_column("samples"),
        text_column("evaluation {task.fields[row]} of {task.fields[nfe]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console or plain_console(stderr=True)) as bar:
        task = bar.add_task("", total=None, row=0, nfe=0)

        def move(where: Any) -> None:
            if callback is not None:
                callback(where)
            # A batch counts evaluation by evaluation, so that the bar moves within it too.
            launched, nfe = where.evaluations, where.nfe
            part = where.batch * launched / nfe if launched < nfe else 0.0
            bar.update(task, total=where.total, completed=int(where.done + part), row=launched, nfe=nfe)

        yield move
