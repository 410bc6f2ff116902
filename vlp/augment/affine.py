"""Random affine maps and colour shifts for drawings on white: what tilts or changes its tint stays the same thing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from vlp.augment import Augment


@dataclass(frozen=True)
class Affine(Augment):
    """Rotation, scale, shear, shift, a colour matrix, brightness and contrast; what comes in from outside is white."""

    size: int = 0
    """side of the result, pixels; 0: that of the pictures. Crop and resize are one interpolation"""
    rotation: float = 12.0
    """largest rotation, degrees"""
    scale: tuple[float, float] = (0.8, 1.15)
    """least and greatest scale (log-uniform)"""
    stretch: float = 0.1
    """largest log ratio of width to height"""
    shear: float = 0.1
    """largest shear"""
    shift: float = 0.1
    """largest shift, of half the side"""
    colour: float = 0.15
    """standard deviation of the colour matrix's entries; its rows sum to 1, so white and grey stay what they are"""
    light: float = 0.15
    """largest change of contrast, and twice that of brightness"""

    def __call__(self, image: Tensor, generator: Generator) -> Tensor:
        """uint8 [B, 3, H, W] -> uint8 [B, 3, size, size]."""
        size = self.size or image.shape[-1]
        theta = self.maps(len(image), generator)
        grid = F.affine_grid(theta, [len(image), 3, size, size], align_corners=False)
        ink = 1 - image.float() / 255  # white is 0, so that padding with zeros pads with white
        picture = 1 - F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return (self.tint(picture, generator) * 255).round_().clamp_(0, 255).to(torch.uint8)

    def maps(self, count: int, generator: Generator) -> Tensor:
        """`count` random affine maps [count, 2, 3], as affine_grid takes them."""
        angle = self._uniform(count, -self.rotation, self.rotation, generator) * (math.pi / 180)
        scale = self._uniform(count, math.log(self.scale[0]), math.log(self.scale[1]), generator).exp()
        stretch = self._uniform(count, -self.stretch, self.stretch, generator).exp()
        shear = self._uniform(count, -self.shear, self.shear, generator)
        wide, high = 1 / (scale * stretch), stretch / scale
        theta = torch.stack(
            [wide * angle.cos(), -high * angle.sin() + shear, wide * angle.sin(), high * angle.cos()], dim=1
        ).view(count, 2, 2)
        shift = self._uniform(2 * count, -self.shift, self.shift, generator).view(count, 2, 1)
        return torch.cat([theta, shift], dim=2)

    def tint(self, picture: Tensor, generator: Generator) -> Tensor:
        """Pictures [B, 3, H, W] of 0 to 1 in other colours, contrast and brightness."""
        count = len(picture)
        if self.colour:
            noise = torch.randn(count, 3, 3, generator=generator, device=picture.device) * self.colour
            matrix = torch.eye(3, device=picture.device) + noise - noise.mean(2, keepdim=True)
            picture = torch.bmm(matrix, picture.flatten(2)).view_as(picture)
        if self.light:
            contrast = 1 + self._uniform(count, -self.light, self.light, generator).view(count, 1, 1, 1)
            brightness = self._uniform(count, -self.light, self.light, generator).view(count, 1, 1, 1) / 2
            picture = (picture - 1) * contrast + 1 + brightness
        return picture

    @staticmethod
    def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
        return torch.empty(count, device=generator.device).uniform_(low, high, generator=generator)
