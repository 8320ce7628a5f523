"""Options of commands that say which network is drawn from: the guide of one, and what a diffusers pipeline is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import RestartValueError
from ..plan.plan import Plan
from .options import given

MODEL = "A bundled name, a model file, or the folder of a diffusers pipeline"


@dataclass(frozen=True)
class PipelineOptions:
    """What a diffusers pipeline is told, where --model is one; None stands for options that were not given."""

    prompt: Annotated[str | None, typer.Option(help="Text of all images, for a text-to-image pipeline.")] = None
    negative_prompt: Annotated[
        str | None,
        typer.Option(
            "--negative-prompt",
            "--negative",
            help="Text that guidance leads away from. Default: the pipeline's, usually none.",
        ),
    ] = None
    height: Annotated[int | None, typer.Option(help="Of a pipeline's images, in pixels. Default: the network's.")] = (
        None
    )
    width: Annotated[int | None, typer.Option(help="Likewise.")] = None
    distilled_guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale that a network with distilled guidance (Flux) is told. Default 3.5."),
    ] = None
    variant: Annotated[
        str | None, typer.Option(help="Weight files of a pipeline with this in their names, such as fp16.")
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            help="Where --model is one .safetensors file with all weights of a pipeline: a folder of that pipeline, "
            "whose own weights may be left out. Nothing is downloaded."
        ),
    ] = None

    def told(self) -> dict[str, Any]:
        """Return what was given, as `rs.load` takes it."""
        return {name: str(value) if name == "config" else value for name, value in given(self).items()}

    def told_with_prompts(self, model: str) -> dict[str, Any]:
        """Return the same where every sample has a prompt of its own, so that a pipeline needs no other."""
        told = self.told()
        return {"prompt": "", **told} if opens_pipeline(model, told) else told


def opens_pipeline(model: str, told: Mapping[str, Any]) -> bool:
    """Whether `model` is a pipeline: a folder with its index, or a file with a folder beside it, `told["config"]`."""
    from ..integrations.load import is_pipeline

    return "config" in told or is_pipeline(model)


@dataclass(frozen=True)
class GuideOptions:
    """The other network of guidance; None stands for options that were not given."""

    guide: Annotated[
        str | None,
        typer.Option(
            help="Another network that gives the second output of guidance: a bundled name or a model file. It may "
            "have no classes."
        ),
    ] = None
    guide_null: Annotated[
        bool | None, typer.Option("--guide-null", help="Tell the guide the null instead of each sample's class.")
    ] = None

    def load(self, model: str, device: str, told: Mapping[str, Any], dtype: str) -> Any:
        """Return the denoiser of a bundled name, a model file or a diffusers pipeline, guided if a guide was given.

        Args:
            told: what a pipeline is loaded with, see `PipelineOptions.told`.
            dtype: what the sampler will compute in, and so that of a pipeline's weights.
        """
        from ..integrations.load import load

        if self.guide is None and self.guide_null:
            raise RestartValueError("--guide-null says what --guide is told, and there is none; leave it out")
        own = {"dtype": "fp32" if dtype == "tf32" else dtype} if opens_pipeline(model, told) else {}
        return load(model, device, guide=self.guide, guide_null=bool(self.guide_null), **{**told, **own})

    def check(self, plans: Iterable[Plan]) -> None:
        """Raise RestartValueError for a guide that none of the plans would call."""
        if self.guide is not None and not any(plan.config.guided for plan in plans):
            raise RestartValueError(
                "--guide was given, and guidance_scale is 1, so the guide would never be called; choose a plan with "
                "guidance, or leave --guide out"
            )
