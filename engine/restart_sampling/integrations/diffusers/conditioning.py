"""What a pipeline's network is told besides the noise level: tables of embeddings, encoded by the pipeline or given."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...common.checks import shown
from ...common.errors import ConfigError


@dataclass(frozen=True)
class Conditioning:
    """Tables with the negative prompt in row 0 and P prompts after it.

    Attributes:
        embeds: [P + 1, S, D]. pooled: [P + 1, E] or None.
        guided: whether row 0 may be used; it is NaN if not.
    """

    embeds: Tensor
    pooled: Tensor | None
    guided: bool


def conditioning_of(
    pipe: Any,
    *,
    prompt: str | list[str] | None = None,
    negative_prompt: str | None = None,
    prompt_embeds: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None,
    pooled_prompt_embeds: Tensor | None = None,
    negative_pooled_prompt_embeds: Tensor | None = None,
    guided: bool = True,
    like: Tensor,
) -> Conditioning:
    """Return the tables for prompts or embeddings, on the device and in the dtype of `like`.

    Prompts go through `pipe.encode_prompt`. One negative prompt serves all prompts. Without guidance the negative rows
    are NaN, so that a guided plan that used them would fail visibly.

    Raises:
        ConfigError: arguments that are missing, contradict each other or do not fit together.
    """
    if (prompt is None) == (prompt_embeds is None):
        raise ConfigError("give either prompt or prompt_embeds")
    if negative_prompt is not None and not isinstance(negative_prompt, str):
        raise ConfigError("negative_prompt must be one text for all prompts")
    if prompt is not None:
        given = (negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds)
        if any(v is not None for v in given):
            raise ConfigError("with prompt, no embeddings are taken; give negative_prompt, or all as embeddings")
        prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds = _encoded(
            pipe, prompt, negative_prompt, guided
        )
    elif negative_prompt is not None:
        raise ConfigError("with prompt_embeds, give negative_prompt_embeds instead of negative_prompt")
    embeds = _table("prompt_embeds", prompt_embeds, negative_prompt_embeds, guided, like, 3)
    pooled = None
    if pooled_prompt_embeds is not None:
        pooled = _table("pooled_prompt_embeds", pooled_prompt_embeds, negative_pooled_prompt_embeds, guided, like, 2)
        if len(pooled) != len(embeds):
            raise ConfigError(f"{len(embeds) - 1} prompt_embeds and {len(pooled) - 1} pooled_prompt_embeds were given")
    return Conditioning(embeds, pooled, guided)


def _encoded(pipe: Any, prompt: Any, negative: str | None, guided: bool) -> tuple[Tensor | None, ...]:
    """Return (prompt, negative, pooled, negative pooled) embeddings by the pipeline's encoders."""
    encode = pipe.encode_prompt
    known = inspect.signature(encode).parameters
    options: dict[str, Any] = {
        "prompt": prompt,
        "prompt_2": None,
        "prompt_3": None,
        "device": pipe._execution_device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": guided,
        "negative_prompt": negative,
    }
    with torch.no_grad():
        result = encode(**{name: value for name, value in options.items() if name in known})
    if "do_classifier_free_guidance" not in known:  # Flux: (prompt, pooled, positions), guidance is distilled
        return result[0], None, result[1], None
    return result if len(result) == 4 else (*result, None, None)


def _table(name: str, prompts: Any, negative: Tensor | None, guided: bool, like: Tensor, ndim: int) -> Tensor:
    """Return the table of `prompts`, a tensor with one row per prompt, with the negative row before them."""
    if not isinstance(prompts, Tensor) or prompts.ndim != ndim:
        given = tuple(prompts.shape) if isinstance(prompts, Tensor) else shown(prompts)
        raise ConfigError(f"{name} must have {ndim} dimensions, one row per prompt, got {given}")
    if not guided:
        first = torch.full_like(prompts[:1], float("nan"))
    elif negative is None:
        raise ConfigError(f"guidance needs negative_{name}; give it, or set guided=False")
    else:
        first = negative[:1]
        if negative.shape[1:] != prompts.shape[1:] or not torch.equal(negative, first.expand_as(negative)):
            raise ConfigError(
                f"negative_{name} must be one row of the shape of {name}'s, the same for all prompts, got "
                f"{tuple(negative.shape)}"
            )
    return torch.cat([first.to(prompts), prompts]).detach().to(like.device, like.dtype)
