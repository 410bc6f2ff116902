"""Random affine maps and colour shifts for drawings on white: what tilts or changes its tint stays the same thing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor
from torch.nn import functional as F

from vlp.augment import Augment, Draws
from vlp.config.bounds import AtLeastZero, Positive, Whole


@dataclass(frozen=True)
class Affine(Augment):
    """Rotation, scale, shear, shift, a colour matrix, brightness and contrast; what comes in from outside is white."""

    size: Whole = 0
    """side of the result, pixels; 0: that of the pictures. Crop and resize are one interpolation"""
    rotation: Annotated[float, Ge(0), Le(180)] = 12.0
    """largest rotation, degrees"""
    scale: tuple[Positive, Positive] = (0.8, 1.15)
    """least and greatest scale (log-uniform)"""
    stretch: AtLeastZero = 0.1
    """largest log ratio of width to height"""
    shear: AtLeastZero = 0.1
    """largest shear"""
    shift: AtLeastZero = 0.1
    """largest shift, of half the side"""
    colour: AtLeastZero = 0.15
    """standard deviation of the colour matrix's entries; its rows sum to 1, so white and grey stay what they are"""
    light: Annotated[float, Ge(0), Lt(1)] = 0.15
    """largest change of contrast, and twice that of brightness"""

    def __call__(self, image: Tensor, draws: Draws) -> Tensor:
        """uint8 [B, 3, H, W] -> uint8 [B, 3, size, size]."""
        size = self.size or image.shape[-1]
        theta = self.maps(draws)
        grid = F.affine_grid(theta, [len(image), 3, size, size], align_corners=False)
        ink = 1 - image.float() / 255  # white is 0, so that padding with zeros pads with white
        picture = 1 - F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return (self.tint(picture, draws) * 255).round_().clamp_(0, 255).to(torch.uint8)

    def maps(self, draws: Draws) -> Tensor:
        """Random affine maps [B, 2, 3], as affine_grid takes them."""
        angle = draws.uniform(-self.rotation, self.rotation) * (math.pi / 180)
        scale = draws.uniform(math.log(self.scale[0]), math.log(self.scale[1])).exp()
        stretch = draws.uniform(-self.stretch, self.stretch).exp()
        shear = draws.uniform(-self.shear, self.shear)
        wide, high = 1 / (scale * stretch), stretch / scale
        theta = torch.stack(
            [wide * angle.cos(), -high * angle.sin() + shear, wide * angle.sin(), high * angle.cos()], dim=1
        ).view(-1, 2, 2)
        shift = draws.uniform(-self.shift, self.shift, 2, 1)
        return torch.cat([theta, shift], dim=2)

    def tint(self, picture: Tensor, draws: Draws) -> Tensor:
        """Pictures [B, 3, H, W] of 0 to 1 in other colours, contrast and brightness."""
        if self.colour:
            noise = draws.normal(3, 3) * self.colour
            matrix = torch.eye(3, device=picture.device) + noise - noise.mean(2, keepdim=True)
            picture = torch.bmm(matrix, picture.flatten(2)).view_as(picture)
        if self.light:
            contrast = 1 + draws.uniform(-self.light, self.light, 1, 1, 1)
            brightness = draws.uniform(-self.light, self.light, 1, 1, 1) / 2
            picture = (picture - 1) * contrast + 1 + brightness
        return picture
