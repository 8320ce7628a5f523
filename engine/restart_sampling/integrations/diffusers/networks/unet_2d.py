"""UNet2DModel: unconditional pixels (DDPM, arXiv 2006.11239). F as it is predicted; told the timestep."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....common.errors import BackendError
from ..network import IN_PLACE, Conditions, PipelineNetwork, Shape


class Unconditional(PipelineNetwork):
    """UNet2DModel."""

    runs = "UNet2DModel"

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        if net.config.get("class_embed_type") or net.config.get("num_class_embeds"):
            raise BackendError(f"a UNet2DModel with classes does not run here; {IN_PLACE}")
        return cls(net), {}

    def forward(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.net(net_in, c_noise.expand(len(net_in)), return_dict=False)[0]


NETWORK = Unconditional
