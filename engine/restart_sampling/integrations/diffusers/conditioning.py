"""What a pipeline's network is told besides the level: the embeddings of prompts, encoded by the pipeline or given.

They are conditions: a run may give each sample embeddings of its own, and otherwise its class picks those of a prompt
that the pipeline was loaded with. The null is the negative prompt.

Each prompt is encoded by itself, so that its embeddings do not depend on others, and with the options that the
pipeline's own call has by default. Where the network takes a mask, prompts of different lengths are filled with zeros
to one length, and the mask says what is real.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...common.checks import integer, shown
from ...common.errors import ConfigError
from ...models.conditions import Condition
from .network import Conditions, PipelineNetwork, network_of

OPTIONS = ("prompt", "negative_prompt", "guided", "max_sequence_length")
NEGATIVE = "negative_"
EMBEDS = "prompt_embeds"
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
Values = dict[str, Any]  # by name: None, a tensor [P, …], or a list with a tensor for each prompt


def arguments(family: type[PipelineNetwork]) -> tuple[str, ...]:
    """Return the names of what `conditioning_of` takes for a network of this family; none if it takes no text."""
    return (*OPTIONS, *family.text, *(NEGATIVE + name for name in family.text)) if family.text else ()


def conditioning_of(
    pipe: Any,
    family: type[PipelineNetwork],
    *,
    like: Tensor,
    prompt: str | list[str] | None = None,
    negative_prompt: str | None = None,
    guided: bool = True,
    max_sequence_length: int | None = None,
    **embeddings: Any,
) -> Conditions:
    """Return the conditions for prompts or embeddings, on the device and in the dtype of `like`; masks are int64.

    Prompts go through `pipe.encode_prompt`. One negative prompt serves all prompts. Without guidance there is no null,
    and plans with guidance are refused.

    Args:
        max_sequence_length: the most tokens of a prompt, and where the network takes a mask, the length of all;
            default: that of the pipeline's call.
        **embeddings: instead of prompts, [P, …] by the names of `family.text`, and likewise negative_…, one row or P
            equal ones. Where the network takes a mask, prompt_embeds may be a list of [s, D], and a mask that is not
            given is that of all tokens.

    Raises:
        ConfigError: arguments that are missing, contradict each other or do not fit together.
    """
    given = {name: value for name, value in embeddings.items() if value is not None}
    if (prompt is None) == (EMBEDS not in given):
        raise ConfigError("give either prompt or prompt_embeds (on the command line --prompt TEXT)")
    if negative_prompt is not None and not isinstance(negative_prompt, str):
        raise ConfigError("negative_prompt must be one text for all prompts")
    if max_sequence_length is not None:
        integer("max_sequence_length", max_sequence_length, 1)
    if prompt is not None:
        if given:
            raise ConfigError("with prompt, no embeddings are taken; give negative_prompt, or all as embeddings")
        positive, negative = encoded(pipe, family, prompt, negative_prompt, guided, max_sequence_length)
    else:
        if negative_prompt is not None:
            raise ConfigError("with prompt_embeds, give negative_prompt_embeds instead of negative_prompt")
        positive = {name: given.get(name) for name in family.text}
        negative = {name: given.get(NEGATIVE + name) for name in family.text}
        if family.mask:
            _check_rows(positive)
            longest = max((len(row) for values in (positive, negative) for row in _rows(values.get(EMBEDS))), default=1)
            positive, negative = (_filled(family, v, max_sequence_length or longest) for v in (positive, negative))
    found = {
        name: _condition(name, positive[name], negative.get(name), guided, _like(name, family, like), name == EMBEDS)
        for name in family.text
        if positive.get(name) is not None
    }
    counts = {name: len(value) for name in found if (value := positive[name]) is not None}
    for name, count in counts.items():
        if count != counts[EMBEDS]:
            raise ConfigError(f"{counts[EMBEDS]} prompt_embeds and {count} {name} were given")
    return found


def prompt_conditions(
    pipe: Any, prompts: str | Sequence[str], max_sequence_length: int | None = None, device: torch.device | None = None
) -> dict[str, Tensor]:
    """Return the conditions of prompts as `Sampler.run(conditions=…)` takes them: name → [P, …].

    Args:
        pipe: a text-to-image pipeline whose network runs here.
        max_sequence_length: as the denoiser was loaded with.
        device: where they are wanted; default: where the network is.
    """
    net, family = network_of(pipe)
    if not family.text:
        raise ConfigError(f"{type(pipe).__name__} takes no text")
    found, _ = encoded(pipe, family, prompts, None, False, max_sequence_length)
    like = next(net.parameters())
    device = device or like.device
    return {
        name: value.to(device, _like(name, family, like).dtype) for name, value in found.items() if value is not None
    }


def truncation(pipe: Any, prompt: str, max_sequence_length: int | None = None) -> str:
    """Return what all encoders of a pipeline leave out of a prompt, in words that follow the prompt; "" if nothing.

    An encoder that reads fewer tokens than another, as CLIP does beside T5, truncates nothing that the other does not.

    Args:
        max_sequence_length: as the denoiser was loaded with.
    """
    _, family = network_of(pipe)
    taken, call = (inspect.signature(function).parameters for function in (pipe.encode_prompt, type(pipe).__call__))
    length = None
    if "max_sequence_length" in taken:
        length = max_sequence_length or call["max_sequence_length"].default
    found = []
    for encoder in ENCODERS:
        tokenizer = getattr(pipe, encoder.replace("text_encoder", "tokenizer"), None)
        if tokenizer is None or getattr(pipe, encoder, None) is None:
            continue
        limit = tokenizer.model_max_length if length is None or "CLIP" in type(tokenizer).__name__ else length
        text, others = family.as_read(pipe, prompt)
        if len(text.encode()) + 2 <= limit + others:  # no token is less than a byte, but for a begin and an end
            return ""
        found.append((len(tokenizer(text, verbose=False).input_ids) - others - limit, limit))
    if not found or (over := min(found))[0] <= 0:
        return ""
    return f"has {sum(over):,} tokens, and the encoder reads {over[1]:,}"


@torch.no_grad()
def encoded(
    pipe: Any,
    family: type[PipelineNetwork],
    prompts: Any,
    negative: str | None,
    guided: bool,
    max_sequence_length: int | None = None,
) -> tuple[Values, Values]:
    """Return the embeddings of prompts, one row each, and if guided those of the negative prompt, by `family.text`."""
    texts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"prompt must be a text or a list of texts, got {shown(prompts)}")
    taken, call = (inspect.signature(function).parameters for function in (pipe.encode_prompt, type(pipe).__call__))
    options = {
        name: call[name].default for name in taken if name in call and call[name].default is not call[name].empty
    }
    options |= {"device": encoders_device(pipe), "num_images_per_prompt": 1}
    if max_sequence_length is not None:
        if "max_sequence_length" not in taken:
            raise ConfigError(f"{type(pipe).__name__} has one length of prompts; leave out max_sequence_length")
        options["max_sequence_length"] = max_sequence_length
    at_once = "do_classifier_free_guidance" in taken  # else the negative prompt is encoded as prompts are
    none = options.get("negative_prompt", None)
    negative = negative if negative is not None else (none if at_once else family.empty)
    positives, negatives = [], {}
    for i, text in enumerate(texts):
        both = guided and i == 0
        own = {"prompt": text, "do_classifier_free_guidance": both, "negative_prompt": negative if both else none}
        found = _named(family, _encode(pipe, _taken({**options, **own}, taken)))
        positives.append({name: found.get(name) for name in family.text})
        if both and at_once:
            negatives = {name: found.get(NEGATIVE + name) for name in family.text}
    if guided and not at_once and not family.distilled:
        negatives = _named(family, _encode(pipe, _taken({**options, "prompt": negative}, taken)))
    values: Values = {name: [_first(row[name]) for row in positives] for name in family.text}
    null: Values = {name: [_first(value)] for name, value in negatives.items() if name in family.text}
    if family.mask:
        longest = max(len(row) for part in (values, null) for row in part.get(EMBEDS, ()))
        length = options.get("max_sequence_length") or longest
        return _filled(family, values, max(length, longest)), _filled(family, null, max(length, longest))
    return {n: _stacked(v) for n, v in values.items()}, {n: _stacked(v) for n, v in null.items()}


def encoders_device(pipe: Any) -> torch.device:
    """Return the device of a pipeline's text encoders, which need not be that of its network."""
    for name in ENCODERS:
        module = getattr(pipe, name, None)
        if isinstance(module, torch.nn.Module) and not hasattr(module, "_hf_hook"):
            return next(module.parameters()).device
    found: torch.device = pipe._execution_device
    return found


def _encode(pipe: Any, options: Mapping[str, Any]) -> Any:
    try:
        return pipe.encode_prompt(**options)
    except (AttributeError, TypeError) as error:
        if getattr(pipe, "text_encoder", None) is not None:
            raise
        raise ConfigError(f"{type(pipe).__name__} has no text encoder; give embeddings instead of a prompt") from error


def _taken(options: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in known}


def _named(family: type[PipelineNetwork], result: Any) -> Values:
    return {name: value for name, value in zip(family.encoded, result, strict=False) if name and value is not None}


def _first(value: Any) -> Any:
    """Return the row of the one prompt that was encoded; lists hold one tensor."""
    return None if value is None or len(value) == 0 else value[0]


def _stacked(rows: list[Any]) -> Tensor | None:
    return None if any(row is None for row in rows) else torch.stack(rows)


def _rows(value: Any) -> list[Tensor]:
    return [] if value is None else list(value)


def _check_rows(values: Values) -> None:
    rows = values.get(EMBEDS)
    good = isinstance(rows, Tensor) and rows.ndim == 3
    good = good or (isinstance(rows, (list, tuple)) and all(isinstance(r, Tensor) and r.ndim == 2 for r in rows))
    if not good or not len(rows):  # type: ignore[arg-type]
        given = tuple(rows.shape) if isinstance(rows, Tensor) else shown(rows)
        raise ConfigError(
            f"prompt_embeds must have 3 dimensions, one row per prompt, or be a list of [s, D], got {given}"
        )


def _filled(family: type[PipelineNetwork], values: Values, length: int) -> Values:
    """Return embeddings [P, S, D] and masks int64 [P, S], S = `length` rounded up, of rows of any length."""
    rows = _rows(values.get(EMBEDS))
    if not rows:
        return {}
    masks = values.get(family.mask)
    masks = [None] * len(rows) if masks is None else list(masks)
    if len(masks) != len(rows):
        raise ConfigError(f"{len(rows)} prompt_embeds and {len(masks)} {family.mask} were given")
    S = -(-length // family.length_multiple) * family.length_multiple
    embeds, found = [], []
    for row, own in zip(rows, masks, strict=True):
        mask = torch.ones(len(row), dtype=torch.int64, device=row.device) if own is None else own.to(row.device)
        if len(row) > S:
            raise ConfigError(f"a prompt has {len(row)} tokens, and max_sequence_length is {S}; raise it")
        if len(mask) != len(row):
            raise ConfigError(f"{family.mask} must have a number for each of the {len(row)} tokens, got {len(mask)}")
        left_out = S - len(row)
        embeds.append(torch.nn.functional.pad(row, (0, 0, 0, left_out)))
        found.append(torch.nn.functional.pad((mask != 0).to(torch.int64), (0, left_out)))
    others = {name: value for name, value in values.items() if name not in (EMBEDS, family.mask)}
    return {**others, EMBEDS: torch.stack(embeds), family.mask: torch.stack(found)}


def _like(name: str, family: type[PipelineNetwork], like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=like.device) if name == family.mask else like


def _condition(name: str, prompts: Any, negative: Any, guided: bool, like: Tensor, tokens: bool) -> Condition:
    """Return the condition whose default is `prompts`, a tensor with one row per prompt, and whose null `negative`."""
    ndim = 3 if tokens else 2
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
