"""Positions of tokens and patches on one layout, for networks whose own forward lays each sample out by itself.

A network's rotary embedding has three tables of angles, [n, d] each, for a token's place in the sequence, and a patch's
row and column. Text token j stands at (j, 0, 0), and the patch in row y and column x of an image that follows n tokens
at (n, y, x).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...common.errors import BackendError
from .network import IN_PLACE_FLOW


class Positions(NamedTuple):
    """The angles of a layout.

    Attributes:
        first: the table of places in the sequence [n, d].
        origin: of row 0 and column 0, [1, d′]. patches: of each patch's row and column, [rows·columns, d′].
    """

    first: Tensor
    origin: Tensor
    patches: Tensor

    @classmethod
    def of(cls, tables: list[Tensor], rows: int, columns: int, tokens: int, before: int = 0) -> Positions:
        """Return the positions of an image of rows × columns patches behind prompts of `tokens` tokens.

        Args:
            before: places in the sequence that no token has.

        Raises:
            BackendError: the network has no positions for so many.
        """
        first, second, third = tables
        if tokens + before >= len(first):
            most = len(first) - 1 - before
            raise BackendError(f"this network has positions for {most} tokens, and prompts have {tokens}")
        if rows > len(second) or columns > len(third):
            raise BackendError(
                f"this network has positions for {len(second)} × {len(third)} patches, and the image has "
                f"{rows} × {columns}; {IN_PLACE_FLOW}"
            )
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        patches = torch.cat([second[y.flatten().to(second.device)], third[x.flatten().to(third.device)]], dim=1)
        return cls(first, torch.cat([second[:1], third[:1]], dim=1), patches)

    def text(self, tokens: int, before: int = 0) -> Tensor:
        """Return the angles of text [tokens, d + d′]."""
        return torch.cat([self.first[before : before + tokens], self.origin.expand(tokens, -1)], dim=1)


def behind(first: Tensor, patches: Tensor, places: Tensor) -> Tensor:
    """Return the angles [B, L, d + d′] of patches [L, d′] that stand at `places` [B] in the sequence."""
    L = len(patches)
    return torch.cat([first[places].unsqueeze(1).expand(-1, L, -1), patches.expand(len(places), -1, -1)], dim=2)
