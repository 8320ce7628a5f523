"""DiTTransformer2DModel: latents with a class (arXiv 2212.09748).

F is the first half of the output's channels, the second is a learned variance; told the timestep and the class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..network import Conditions, PipelineNetwork, Shape


class ClassTransformer(PipelineNetwork):
    """DiTTransformer2DModel; the class after the last one is the empty one of guidance, told by a row of zeros."""

    runs = "DiTTransformer2DModel"

    def __init__(self, net: nn.Module, classes: int, channels: int) -> None:
        super().__init__(net)
        self.label_dim = self.classes = classes
        self.channels = channels

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        return cls(net, int(net.config.num_embeds_ada_norm), shape[0]), {}

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor) -> Tensor:
        number = torch.where(class_labels.any(dim=1), class_labels.argmax(dim=1), self.classes)
        timestep = c_noise.expand(len(net_in))
        return self.net(net_in, timestep=timestep, class_labels=number, return_dict=False)[0][:, : self.channels]


NETWORK = ClassTransformer
