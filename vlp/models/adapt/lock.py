"""Freeze a tower, all but its topmost layers (LiT, 2111.07991)."""

from __future__ import annotations

from torch import nn

from vlp.models.adapt.layers import Layer, layers
from vlp.models.dual_encoder import DualEncoder


def lock(encoder: DualEncoder, tower: nn.Module, *, trained: int = 0) -> list[Layer]:
    """Freeze the layers of `tower` below its `trained` topmost ones, which are given back.

    Frozen layers have no gradient and stay in evaluation mode. With none trained the tower is frozen as a whole.
    """
    if not trained:
        encoder.lock(tower)
        return []
    depth = layers(tower)
    for layer in depth[: max(len(depth) - trained, 0)]:
        for parameter in layer.own_parameters():
            parameter.requires_grad_(False)
        for module in layer.modules:
            encoder.lock(module)
    return depth[max(len(depth) - trained, 0) :]
