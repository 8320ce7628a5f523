"""What a pipeline's network is told besides the level: the embeddings of prompts, encoded by the pipeline or given.

They are conditions: a run may give each sample embeddings of its own, and otherwise its class picks those of a prompt
that the pipeline was loaded with. The null is the negative prompt.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...common.checks import shown
from ...common.errors import ConfigError
from ...models.conditions import Condition


@dataclass(frozen=True)
class Conditioning:
    """The embeddings of P prompts as conditions, whose defaults are theirs by class.

    Attributes:
        embeds: [S, D]. pooled: [E] or None.
        guided: whether there is a negative prompt.
    """

    embeds: Condition
    pooled: Condition | None
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
    """Return the conditions for prompts or embeddings, on the device and in the dtype of `like`.

    Prompts go through `pipe.encode_prompt`. One negative prompt serves all prompts. Without guidance there is no null,
    and plans with guidance are refused.

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
    embeds = _condition("prompt_embeds", prompt_embeds, negative_prompt_embeds, guided, like, 3)
    pooled = None
    if pooled_prompt_embeds is not None:
        pooled = _condition(
            "pooled_prompt_embeds", pooled_prompt_embeds, negative_pooled_prompt_embeds, guided, like, 2
        )
        counts = [len(given) for given in (prompt_embeds, pooled_prompt_embeds) if given is not None]
        if len(set(counts)) > 1:
            raise ConfigError(f"{counts[0]} prompt_embeds and {counts[1]} pooled_prompt_embeds were given")
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


def _condition(name: str, prompts: Any, negative: Tensor | None, guided: bool, like: Tensor, ndim: int) -> Condition:
    """Return the condition whose default is `prompts`, a tensor with one row per prompt, and whose null `negative`."""
    if not isinstance(prompts, Tensor) or prompts.ndim != ndim:
        given = tuple(prompts.shape) if isinstance(prompts, Tensor) else shown(prompts)
        raise ConfigError(f"{name} must have {ndim} dimensions, one row per prompt, got {given}")
    null = None
    if guided and negative is None:
        raise ConfigError(f"guidance needs negative_{name}; give it, or set guided=False")
    if guided and negative is not None:
        null = negative[0]
        if negative.shape[1:] != prompts.shape[1:] or not torch.equal(negative, null.expand_as(negative)):
            raise ConfigError(
                f"negative_{name} must be one row of the shape of {name}'s, the same for all prompts, got "
                f"{tuple(negative.shape)}"
            )
        null = null.to(like)
    return Condition(tuple(prompts.shape[1:]), like.dtype, null=null, default=prompts.to(like))
