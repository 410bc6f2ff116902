"""A residual network for small pictures: a patch stem, and stages that halve the side and double the width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.config.bounds import Count, Positive, Whole
from vlp.errors import UserError
from vlp.models import ImageTower


@dataclass(frozen=True)
class ResNet(ImageTower):
    """Basic residual blocks (1512.03385) after a patch stem: the fastest tower we measured for 48 to 64 px on CPUs."""

    widths: tuple[Count, ...] = (32, 64, 128, 256)
    """channels of each stage"""
    depths: tuple[Whole, ...] = (1, 1, 2, 1)
    """blocks of each stage"""
    patch: Count = 4
    """the stem's patches are this many pixels wide"""
    ratio: Positive = 0.5
    """width inside a block / width of its stage"""
    norm: Literal["batch", "group", "layer"] = "batch"
    """batch norms, or norms that see one picture at a time, with which training.chunk is exact: group (16 channels a
    group) or layer (all channels together)"""

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths) or not self.widths:
            sizes = f"{len(self.widths)} widths and {len(self.depths)} depths"
            raise UserError(f"the image tower resnet has {sizes}; give one of each for every stage")

    def build(self, width: int, size: int) -> nn.Module:
        """A module [B, 3, H, W] -> [B, width]; any H and W that the strides divide.

        Raises UserError for pictures that are smaller than all strides together.
        """
        least = self.patch * 2 ** (len(self.widths) - 1)
        if size < least:
            raise UserError(f"pictures of {size} px are too small for this resnet; its strides take {least} px or more")
        return ResNetTower(self, width)


def norm_of(kind: str, channels: int) -> nn.Module:
    """The norm after a convolution of that many channels."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(max(channels // 16, 1) if kind == "group" and channels % 16 == 0 else 1, channels)


class Block(nn.Module):
    """x + two 3 x 3 convolutions; the second starts at zero, so that a block starts as the identity."""

    def __init__(self, channels: int, inner: int, norm: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.norm = norm_of(norm, inner)
        self.second = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.last_norm = norm_of(norm, channels)
        nn.init.zeros_(cast(Tensor, self.last_norm.weight))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        inner = F.relu(self.norm(self.first(x)), inplace=True)
        return F.relu(x + self.last_norm(self.second(inner)), inplace=True)


class ResNetTower(nn.Module):
    """The module of `ResNet`, channels last."""

    def __init__(self, config: ResNet, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, stride = 3, config.patch
        for wide, depth in zip(config.widths, config.depths, strict=True):
            layers += [nn.Conv2d(channels, wide, stride, stride, bias=False), norm_of(config.norm, wide)]
            layers += [Block(wide, max(int(wide * config.ratio), 1), config.norm) for _ in range(depth)]
            channels, stride = wide, 2
        self.body = nn.Sequential(*layers, norm_of(config.norm, channels), nn.ReLU())
        self.head = nn.Linear(channels, width, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Features [B, width] of normalised pictures [B, 3, H, W]."""
        features = self.body(image.contiguous(memory_format=torch.channels_last))
        return self.head(features.mean((2, 3)))  # type: ignore[no-any-return]
