"""`restart-sampling report`: rows of results become one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import BackendError, OutputError


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders with the .jsonl files of bench and tune. Default: bench and tune, those that are there.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    model: Annotated[
        str, typer.Option(help="Model whose samples are drawn: a bundled name or a .safetensors file.")
    ] = "fashion-mnist",
    samples: Annotated[
        bool, typer.Option(help="Draw sample grids and one run for the page (about a minute).")
    ] = True,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Samplers compared",
) -> None:
    """Write one HTML page of the results, with nothing to load: fronts, speed, time, samples, ablations, tuned plans."""
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise BackendError(f"the report needs {error.name}: pip install 'restart-sampling[bench]'") from None
    from ..bench import rows as rows_
    from ..output.images import write_output
    from ..report import make_page

    if out.is_dir():
        raise OutputError(f"--out {out} is a folder; name a file such as {out / 'report.html'}")
    folders = results or [*filter(Path.is_dir, map(Path, ("bench", "tune")))] or [Path("bench")]
    found = [row for folder in folders for row in rows_.read_all(folder)]
    live = _live(model) if samples else None
    page = make_page(found, title=title, folders=[*map(str, folders)], live=live)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {out.parent}: {error.strerror or error}") from error
    write_output(out, lambda file: file.write(page.encode()))
    told = ", ".join(map(str, folders))
    typer.echo(f"{out}: {len(found):,} rows of {told}, {len(page.encode()) / 1e6:.1f} MB")


def _live(model: str) -> Any:
    """The images of the page, drawn now."""
    from ..bench import samplers
    from ..models.registry import load
    from ..plan import Plan
    from ..report import samples as s
    from ..report.page import Live
    from ..terminal import plain_console

    denoiser = load(model)
    if denoiser.shape[0] not in (1, 3):
        note = f"{model} draws samples of {denoiser.shape[0]} channels, which are not shown as images."
        return Live(denoiser.name, notes=(note,))
    console = plain_console(stderr=True)
    seeds = f"{s.SEEDS[0]}-{s.SEEDS[-1]}"
    with console.status("drawing samples") as status:
        chosen = [samplers.find(name) for name in s.SAMPLERS]
        grids = s.sample_grids(
            denoiser, chosen, progress=lambda what: status.update(f"drawing samples: {what}")
        )
        if denoiser.parameterization.name != "edm":
            note = f"The run is not shown: it needs EDM preconditioning, and {model} has {denoiser.parameterization.name}."
            return Live(denoiser.name, tuple(grids), seeds, notes=(note,))
        status.update("recording one run")
        plan = Plan.build(**s.STRIP_PLAN)
        visits, x = s.record(denoiser, plan)
    label = f"{denoiser.name}, Heun + Restart {s.STRIP_PLAN['restart']}, {plan.nfe} NFE, by the plain PyTorch loop"
    return Live(denoiser.name, tuple(grids), seeds, s.strip(visits, x), label)
