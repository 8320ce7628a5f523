"""Options of a job alone: what it draws from, what its samples begin with and keep, how latents become images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import RestartValueError
from .options import given


@dataclass(frozen=True)
class EditOptions:
    """What samples begin with instead of noise, and what they keep; None stands for options that were not given."""

    start: Annotated[
        Path | None,
        typer.Option(
            "--start",
            "--start-images",
            help="Image that the samples begin with: a picture or .npy [C, H, W] for all, or a folder, .npy or .npz "
            "with one for each seed in order.",
        ),
    ] = None
    strength: Annotated[
        float | None, typer.Option(help="Share of the main grid's steps that a run from --start makes, up to 1.")
    ] = None
    start_sigma: Annotated[
        float | None, typer.Option(help="Noise level that a run from --start begins at, instead of --strength.")
    ] = None
    known: Annotated[
        Path | None, typer.Option(help="Image that the samples keep where --mask is black; given as --start is.")
    ] = None
    mask: Annotated[
        Path | None, typer.Option(help="Where the samples are free, white, and where they are --known, black.")
    ] = None
    paste: Annotated[
        str | None, typer.Option(help="Noise of the known image: initial, always that of the seed's first, or fresh.")
    ] = None

    def images(self) -> dict[str, Path]:
        """Return the images that were given, by name."""
        return {name: path for name, path in given(self).items() if name in ("start", "known", "mask")}

    def edits(self) -> dict[str, Any]:
        """Return what was given, as `run_job` takes it."""
        return {"sigma" if name == "start_sigma" else name: value for name, value in given(self).items()}


@dataclass(frozen=True)
class InputOptions:
    """What a job draws from; None stands for options that were not given."""

    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of prompts: .txt with one a line, .csv, .tsv, .jsonl, .parquet, or .json with COCO captions."
        ),
    ] = None
    prompt_column: Annotated[
        str | None, typer.Option(help="Column of the prompts. Default prompt, caption, text, or the only one.")
    ] = None
    conditions: Annotated[
        Path | None,
        typer.Option(
            help="Conditions by name, [inputs, …] each: .npz, a folder of .npy, .zarr, or .npy for the only one."
        ),
    ] = None
    per_input: Annotated[
        int | None,
        typer.Option("--per-prompt", "--members", help="Samples of each prompt, members of each condition. Default 1."),
    ] = None
    first_seed: Annotated[
        int | None, typer.Option(help="Sample k of input i has the seed first + i·n + k, n being --per-prompt.")
    ] = None
    same_seeds: Annotated[
        bool | None, typer.Option("--same-seeds", help="All inputs have the noise of the seeds first … first + n − 1.")
    ] = None

    def read(self, denoiser: Any, start: Any = None, negative: str | None = None) -> Any:
        """Return the inputs of a job, None if there are none.

        Args:
            start: the images that the samples begin with. negative: the negative prompt that the model was loaded with.
        """
        from ..jobs.inputs.inputs import Inputs

        options = given(self)
        if not options:
            return None
        if self.prompts is None and self.conditions is None:
            if start is None:
                name = {"per_input": "per-prompt"}.get(first := next(iter(given(self))), first.replace("_", "-"))
                raise RestartValueError(f"--{name} is of inputs; give --prompts, --conditions, or a folder as --start")
            options["images"] = start
        if self.prompts is not None and negative is not None:
            options["negative"] = negative
        return Inputs.read(denoiser, **options)


@dataclass(frozen=True)
class DecodeOptions:
    """How latents become images; None stands for options that were not given."""

    decode: Annotated[
        Path | None,
        typer.Option(help="Folder of the VAE, or of its pipeline, that decodes a latent model's samples to images."),
    ] = None
    decode_batch: Annotated[
        int | None, typer.Option(help="Latents that are decoded at once, beside the sampler: 1 to 4. Default 4.")
    ] = None
