"""The encoder of a pipeline's prompts, as `Denoiser.encode` and a job have it: one text at a time, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .conditioning import ENCODERS, encoders_device, prompt_conditions


class PromptEncoder:
    """Encodes a prompt with the text encoders of a pipeline, which `to` moves by themselves.

    Args:
        pipe: a text-to-image pipeline whose network runs here.
        max_sequence_length: as the denoiser was loaded with.
    """

    def __init__(self, pipe: Any, max_sequence_length: int | None = None) -> None:
        self.pipe, self.max_sequence_length = pipe, max_sequence_length

    def __call__(self, prompt: str) -> dict[str, Tensor]:
        """Return the conditions of a prompt by name, [*shape] each, on the device of the encoders."""
        device = encoders_device(self.pipe)
        found = prompt_conditions(self.pipe, prompt, self.max_sequence_length, device)
        return {name: value[0] for name, value in found.items()}

    def to(self, device: torch.device) -> bool:
        """Move the encoders to where samples are drawn; return whether they fit. What does not fit stays where it was.

        Encoders that accelerate moves by itself are left to it.
        """
        modules = [module for name in ENCODERS if isinstance(module := getattr(self.pipe, name, None), nn.Module)]
        modules = [module for module in modules if not hasattr(module, "_hf_hook")]
        before = [next(module.parameters()).device for module in modules]
        try:
            for module in modules:
                module.to(device)
        except torch.OutOfMemoryError:
            for module, where in zip(modules, before, strict=True):
                module.to(where)
            return False
        return True
