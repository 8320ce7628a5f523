"""The U-Net of a tiny Stable Diffusion with the names that its authors' files have, in one file."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_name(name: str, layers: int, attention_in_up: tuple[bool, ...]) -> str:
    """The name in a Stable Diffusion file of a tensor of a UNet2DConditionModel.

    Args:
        layers: layers_per_block. attention_in_up: of each up block, whether it has attention.
    """
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, index, rest = found.groups()
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{_rest(kind, rest)}"
    side, block, kind, index, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name).groups()
    block, index = int(block), int(index)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{block * (layers + 1) + index + 1}.{int(kind == 'attentions')}.{_rest(kind, rest)}"
    if kind == "upsamplers":
        return f"output_blocks.{(block + 1) * (layers + 1) - 1}.{1 + attention_in_up[block]}.{rest}"
    return f"output_blocks.{block * (layers + 1) + index}.{int(kind == 'attentions')}.{_rest(kind, rest)}"


def _rest(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    module, _, parameter = rest.partition(".")
    return f"{RESNET[module]}.{parameter}"


def save_unet(net: torch.nn.Module, path: Path) -> None:
    """Write the network as the file of a Stable Diffusion pipeline, which holds nothing else."""
    up = tuple("CrossAttn" in block for block in net.config.up_block_types)
    layers = net.config.layers_per_block
    tensors = {
        f"model.diffusion_model.{original_name(name, layers, up)}": tensor.contiguous()
        for name, tensor in net.state_dict().items()
    }
    assert len(tensors) == len(net.state_dict())
    save_file(tensors, path)
