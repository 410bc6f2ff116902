"""Pictures to uint8 tensors: the evaluation form, and the random crops of training."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from vlp.pictures import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_tensor(picture: Image) -> Tensor:
    """uint8 [3, H, W] of an RGB picture."""
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class ImageTransform:
    """Resize and crop at evaluation, as open_clip does (bicubic with antialias)."""

    size: int = 64
    """side of the square that the model sees, pixels"""
    resize: Literal["shortest", "squash"] = "shortest"
    """shortest: scale the shorter side to `size`, then crop the centre; squash: scale both sides"""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """filter of the resize"""

    def __call__(self, picture: Image, rng: random.Random | None = None) -> Tensor:
        """uint8 [3, size, size]; `rng` is not used (training transforms share the signature)."""
        from PIL import Image as pil

        picture = to_rgb(picture)
        width, height = picture.size
        filter_ = pil.Resampling.BICUBIC if self.interpolation == "bicubic" else pil.Resampling.BILINEAR
        if self.resize == "squash":
            new = (self.size, self.size)
        elif width <= height:
            new = (self.size, int(self.size * height / width))
        else:
            new = (int(self.size * width / height), self.size)
        if new != picture.size:
            picture = picture.resize(new, filter_)
        left, top = round((new[0] - self.size) / 2.0), round((new[1] - self.size) / 2.0)
        if new != (self.size, self.size):
            picture = picture.crop((left, top, left + self.size, top + self.size))
        return to_tensor(picture)


@dataclass(frozen=True)
class RandomCrop:
    """Random resized crop of training (as torchvision's RandomResizedCrop), fused with the resize."""

    size: int = 64
    """side of the square that the model sees, pixels"""
    scale: tuple[float, float] = (0.9, 1.0)
    """the crop's share of the picture's area: least and most"""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """the crop's width / height: least and most"""

    def box(self, width: int, height: int, rng: random.Random) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of a crop of a width x height picture, pixels."""
        area = width * height
        for _ in range(10):
            target = area * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.randint(0, width - w), rng.randint(0, height - h)
                return left, top, left + w, top + h
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side

    def __call__(self, picture: Image, rng: random.Random) -> Tensor:
        """uint8 [3, size, size]."""
        from PIL import Image as pil

        picture = to_rgb(picture)
        box = self.box(*picture.size, rng)
        return to_tensor(picture.resize((self.size, self.size), pil.Resampling.BICUBIC, box=box))
