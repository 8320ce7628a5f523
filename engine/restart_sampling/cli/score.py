"""`restart-sampling score`: the quality of images on the disk, or of the ensembles that a job has drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.errors import ConfigError

if TYPE_CHECKING:
    from ..experiments.measure.ensembles.stored import Ensembles

COLUMNS = (
    ("fd_balanced", "FD, equal classes"),
    ("fd", "FD"),
    ("kid", "KID"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("density", "density"),
    ("coverage", "coverage"),
    ("accuracy", "accuracy"),
)


def score(
    images: Annotated[
        Path,
        typer.Argument(
            help="A folder that `generate` wrote, a folder of PNG or JPEG images, an .npz, a WebDataset .tar, "
            "a .parquet file, or a folder of such files."
        ),
    ],
    features: Annotated[
        str | None,
        typer.Option(
            help="Feature extractors, separated by commas: a shipped name, all (that are shipped; the default), "
            "FILE.py:NAME, package.module:NAME or a TorchScript file."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="An .npz with images or with mu and sigma (default: Fashion-MNIST's test set); of a job that drew "
            "several samples of each input its truths [inputs, …], .npy, .npz or .zarr."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Append the rows to this JSON-lines file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON, one a line.")] = False,
) -> None:
    """Fréchet distance and other measures of images on the disk, read in batches. Of a job that drew several samples of
    each input, and without --features: CRPS, spread and ranks of these ensembles against the truths in --reference.

    Compare numbers of equal extractor, reference and number of images only.
    """
    from rich.table import Table

    from ..common.terminal import plain_console, print_table
    from ..experiments.measure import score as scores
    from ..experiments.measure.ensembles.stored import open_ensembles
    from ..experiments.measure.evaluator import evaluators_of
    from ..experiments.measure.image_sets import open_images
    from ..experiments.measure.rows import append, environment

    ensembles = None if features is not None else open_ensembles(images)
    if ensembles is not None and ensembles.scored(reference):
        _ensembles(ensembles, images, reference, out, as_json)
        return
    console = plain_console(stderr=True, soft_wrap=True)
    found = open_images(images)
    evaluators = evaluators_of("all" if features is None else features, reference, found)
    scorers = scores.score(evaluators, found.batches())
    rows: list[dict[str, Any]] = []
    for scorer in scorers:
        measured = {name: round(value, 6) for name, value in scorer.result().items()}
        row = {"kind": "score", "images": str(images), "format": found.kind, "n": scorer.n}
        row |= {"features": scorer.evaluator.features, "reference": scorer.evaluator.reference}
        rows.append(row | measured | environment())
    for note in dict.fromkeys(note for scorer in scorers for note in scorer.notes()):
        console.print(f"note: {note}")
    for row in rows if out is not None else ():
        append(Path(str(out)), row)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    shown = [(name, title) for name, title in COLUMNS if any(name in row for row in rows)]
    table = Table(title=f"{rows[0]['n']:,} images, reference: {rows[0]['reference']}")
    for column in ("features", *(title for _, title in shown)):
        table.add_column(column, justify="left" if column == "features" else "right", no_wrap=column == "features")
    for row in rows:
        table.add_row(str(row["features"]), *(f"{row[name]:.4g}" if name in row else "" for name, _ in shown))
    print_table(table)


def _ensembles(ensembles: Ensembles, folder: Path, reference: Path | None, out: Path | None, as_json: bool) -> None:
    """Print the scores of what a job has drawn of its inputs."""
    from ..common.terminal import print_table
    from ..experiments.measure.ensembles import tables
    from ..experiments.measure.ensembles.reference import open_reference
    from ..experiments.measure.ensembles.stored import score
    from ..experiments.measure.rows import append, environment

    if reference is None:
        raise ConfigError(
            f"{folder} holds {ensembles.members} samples of each of {ensembles.inputs:,} inputs; give their truths as "
            "--reference FILE, an array [inputs, …], or --features to score them as images"
        )
    truths = open_reference(reference)
    row = {"kind": "score", "images": str(folder), "format": ensembles.record["format"]}
    row |= {"n": ensembles.inputs * ensembles.members, "model": ensembles.record["model"]}
    row |= {"nfe": ensembles.record["nfe"], "plan": ensembles.record["plan_digest"], "reference": truths.name()}
    row |= score(ensembles, truths).row() | environment()
    if out is not None:
        append(out, row)
    if as_json:
        typer.echo(json.dumps(row))
        return
    title = f"{ensembles.inputs:,} inputs, {ensembles.members} members of each, reference: {row['reference']}"
    print_table(tables.of_variables(row, title))
    typer.echo(tables.ranks(row))
