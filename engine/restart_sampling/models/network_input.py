"""What a network of images is called with, checked: the same for all families."""

from __future__ import annotations

from torch import Tensor

from ..common.errors import RestartTypeError, RestartValueError


def check_images(
    shape: tuple[int, ...], label_dim: int, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None
) -> None:
    """Raise RestartTypeError or RestartValueError for a wrong dtype or shape.

    Args:
        shape: of one sample, (C, H, W). label_dim: classes of the network.
        net_in: [B, C, H, W]. c_noise: [1] or [B]. class_labels: one-hot [B or 1, label_dim] or None.
    """
    if not net_in.is_floating_point():
        raise RestartTypeError(f"net_in must be floating point, got {net_in.dtype}")
    if net_in.dim() != 4 or tuple(net_in.shape[1:]) != tuple(shape):
        want = f"[B, {', '.join(map(str, shape))}]"
        raise RestartValueError(f"net_in must have the shape {want}, got {list(net_in.shape)}")
    B = net_in.shape[0]
    if c_noise.dim() != 1 or c_noise.shape[0] not in (1, B):
        raise RestartValueError(f"c_noise must have the shape [1] or [{B}], got {list(c_noise.shape)}")
    if class_labels is None:
        return
    if not label_dim:
        raise RestartValueError("class_labels given, but this network has no classes: pass None")
    if class_labels.dim() != 2 or class_labels.shape[0] not in (1, B) or class_labels.shape[1] != label_dim:
        want = f"one-hot [{B}, {label_dim}]"
        raise RestartValueError(f"class_labels must be {want}, got the shape {list(class_labels.shape)}")
