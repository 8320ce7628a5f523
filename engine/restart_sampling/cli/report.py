"""`restart-sampling report`: rows of results become one HTML page, a CSV or LaTeX tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.errors import BackendError, OutputError, RestartError

if TYPE_CHECKING:
    from ..experiments.report.page import Live

PAGE = Path("report.html")


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders with the .jsonl files of bench and tune. Default: bench and tune, those that are there.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page to write. Default report.html, or no page with --csv or --latex.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write every point as a line of this CSV file, for other programs.")
    ] = None,
    latex: Annotated[
        Path | None,
        typer.Option("--latex", help="Write the tables of distances and speeds to this .tex file (booktabs)."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model whose samples are drawn: a bundled name or a file. Default: that of the rows."),
    ] = None,
    guide: Annotated[
        str | None,
        typer.Option(help="Guide of that model: a bundled name or a file. Default: that of the rows, if all have one."),
    ] = None,
    samples: Annotated[bool, typer.Option(help="Draw sample grids and one run for the page (about a minute).")] = True,
    title: Annotated[
        str | None, typer.Option(help="Heading of the page. Default: the models that were compared.")
    ] = None,
) -> None:
    """Write one HTML page of the results, with nothing to load: fronts, speed, time, samples, ablations, tuned plans.

    With --csv or --latex the numbers alone, for other programs and for a paper.
    """
    from ..experiments.measure import rows as rows_

    targets = {"--out": out, "--csv": csv, "--latex": latex}
    for flag, path in targets.items():
        if path is not None and path.is_dir():
            raise OutputError(f"{flag} {path} is a folder; name a file such as {path / 'report'}{_ending(flag)}")
    if out is None and csv is None and latex is None:
        out = PAGE
        if out.is_dir():
            raise OutputError(f"--out {out} is a folder; name a file such as {out / 'report.html'}")
    if out is not None:
        try:
            import jinja2  # noqa: F401
            import plotly  # noqa: F401
        except ImportError as error:
            raise BackendError(f"the report needs {error.name}: pip install 'restart-sampling[bench]'") from None
    folders = results or [*filter(Path.is_dir, map(Path, ("bench", "tune")))] or [Path("bench")]
    found = [row for folder in folders for row in rows_.read_all(folder)]
    told = ", ".join(map(str, folders))
    if not found:
        typer.echo(
            f"note: there are no rows in {told}; `restart-sampling bench --out {folders[0]}` writes some", err=True
        )
    if out is not None:
        from ..experiments.report import make_page

        live = _live(found, model, guide) if samples else None
        page = make_page(found, title=title, folders=[*map(str, folders)], live=live)
        _write(out, page)
        typer.echo(f"{out}: {len(found):,} rows of {told}, {len(page.encode()) / 1e6:.1f} MB")
    if csv is not None:
        from ..experiments.report.export import csv_text

        text = csv_text(found)
        _write(csv, text)
        typer.echo(f"{csv}: {text.count(chr(10)) - 1:,} points of {told}")
    if latex is not None:
        from ..experiments.report.export import latex_text

        text = latex_text(found)
        _write(latex, text)
        typer.echo(f"{latex}: {text.count('begin{table}'):,} tables of {told}")


def _ending(flag: str) -> str:
    return {"--csv": ".csv", "--latex": ".tex"}.get(flag, ".html")


def _write(path: Path, text: str) -> None:
    from ..common.images import write_output

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path.parent}: {error.strerror or error}") from error
    write_output(path, lambda file: file.write(text.encode()))


def _live(rows: list[dict[str, Any]], asked: str | None, guide: str | None) -> Live:
    """Draw the images of the page with the model that was measured; a note replaces them if it cannot be loaded."""
    from ..experiments.report.clean import cleaned, printable
    from ..experiments.report.commands import guides_of, models_of
    from ..experiments.report.page import Live
    from ..models.registry import load_model

    good, _ = cleaned(rows)
    names = models_of(good)
    if asked is None and len(names) != 1:
        several = f"The rows are of {len(names)} models; --model chooses one."
        return Live("", notes=(several if names else "No row names a model; --model chooses one.",))
    model = names[0] if asked is None else asked
    own = [row for row in good if row.get("model") == model]
    found = guides_of(own)
    recorded, null = found[0] if len(found) == 1 else (None, False)
    guide = recorded if guide is None else guide
    try:
        denoiser = load_model(model, guide=guide, guide_null=null and guide is not None)
    except RestartError as error:
        if asked is not None:
            raise
        return Live("", notes=(printable(f"{model} could not be loaded, so no images of it are here: {error}"),))
    measured = {str(row["model_sha256"]) for row in own if row.get("model_sha256")}
    here = str(denoiser.info.get("sha256", ""))[:12]
    other = bool(measured and here) and here not in measured
    told = f"{model} has other weights now ({here}) than those that were measured ({', '.join(sorted(measured))})."
    if other and asked is None:
        return Live("", notes=(f"No images are drawn: {told}",))
    return _draw(denoiser, model, (f"Mind that {told}",) if other else ())


def _draw(denoiser: Any, model: str, notes: tuple[str, ...]) -> Live:
    """Draw grids of samples, and record one run evaluation by evaluation."""
    from ..common.terminal import plain_console
    from ..experiments.measure import samplers
    from ..experiments.report import samples as s
    from ..experiments.report.page import Live
    from ..plan.plan import Plan

    if denoiser.shape[0] not in (1, 3):
        note = f"{model} draws samples of {denoiser.shape[0]} channels, which are not shown as images."
        return Live(denoiser.name, notes=(*notes, note))
    console = plain_console(stderr=True)
    seeds = f"{s.SEEDS[0]}-{s.SEEDS[-1]}"
    with console.status("drawing samples") as status:
        chosen = [samplers.find(name) for name in s.SAMPLERS]
        try:
            grids = s.sample_grids(denoiser, chosen, progress=lambda what: status.update(f"drawing samples: {what}"))
        except RestartError as error:
            return Live(denoiser.name, notes=(*notes, f"No images could be drawn: {error}"))
        if denoiser.parameterization.name != "edm":
            note = (
                f"The run is not shown: it needs EDM preconditioning, and {model} has {denoiser.parameterization.name}."
            )
            return Live(denoiser.name, tuple(grids), seeds, notes=(*notes, note))
        status.update("recording one run")
        plan = Plan.build(**s.STRIP_PLAN)
        visits, x = s.record(denoiser, plan)
    label = f"{denoiser.name}, Heun + Restart {s.STRIP_PLAN['restart']}, {plan.nfe} NFE, by the plain PyTorch loop"
    return Live(denoiser.name, tuple(grids), seeds, s.strip(visits, x), label, notes)
