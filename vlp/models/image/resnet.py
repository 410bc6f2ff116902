"""A residual network for small pictures: a patch stem, and stages that halve the side and double the width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.models import ImageTower


@dataclass(frozen=True)
class ResNet(ImageTower):
    """Basic residual blocks (1512.03385) behind a patch stem: the fastest tower we found for 48 to 64 px on CPUs."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    """channels of each stage"""
    depths: tuple[int, ...] = (1, 1, 2, 1)
    """blocks of each stage"""
    patch: int = 4
    """the stem's patches are this many pixels wide"""
    ratio: float = 0.5
    """width inside a block / width of its stage"""

    def build(self, width: int, size: int) -> nn.Module:
        """A module [B, 3, H, W] -> [B, width]; any H and W that the strides divide."""
        return ResNetTower(self, width)


class Block(nn.Module):
    """x + two 3 x 3 convolutions; the second starts at zero, so that a block starts as the identity."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.second = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.last_norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.last_norm.weight)

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
            layers += [nn.Conv2d(channels, wide, stride, stride, bias=False), nn.BatchNorm2d(wide)]
            layers += [Block(wide, int(wide * config.ratio)) for _ in range(depth)]
            channels, stride = wide, 2
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Linear(channels, width, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Features [B, width] of normalised pictures [B, 3, H, W]."""
        features = self.body(image.contiguous(memory_format=torch.channels_last))
        return self.head(features.mean((2, 3)))  # type: ignore[no-any-return]
