"""Pictures to uint8 tensors: the evaluation form, and the random crops of training."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from vlp.config.bounds import Count, Positive, Share
from vlp.pictures import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Resize = Literal["shortest", "squash", "longest"]
Interpolation = Literal["bicubic", "bilinear"]
STRIP = 16  # a picture more than so many times as long as it is wide is cut before it is scaled
Grey = Annotated[int, Ge(0), Le(255)]


def to_tensor(picture: Image) -> Tensor:
    """uint8 [3, H, W] of an RGB picture."""
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class ImageTransform:
    """How a model wants its pictures: size, resize and normalisation, as open_clip's PreprocessCfg has them.

    Called with a picture it gives the pixels; `mean` and `std` are applied by the DualEncoder, on its device.
    """

    size: Count = 64
    """side of the square that the model sees, pixels"""
    resize: Resize = "shortest"
    """shortest: scale the shorter side to `size`, crop the centre; squash: scale both sides; longest: scale the longer
    side, fill the rest"""
    interpolation: Interpolation = "bicubic"
    """filter of the resize"""
    fill: Grey = 0
    """grey level beside a picture that is resized by its longest side"""
    mean: tuple[Share, Share, Share] = CLIP_MEAN
    """mean of the pixels, of 1"""
    std: tuple[Positive, Positive, Positive] = CLIP_STD
    """standard deviation of the pixels, of 1"""

    def place(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the whole scaled picture in the square that the model sees.

        What lies outside the square is cut off. Rounding is torchvision's (`shortest`) and open_clip's (`longest`).
        """
        size = self.size
        if self.resize == "squash":
            return 0, 0, size, size
        if self.resize == "longest":
            ratio = max(width, height) / size
            wide, high = max(1, round(width / ratio)), max(1, round(height / ratio))
            left, top = (size - wide) // 2, (size - high) // 2
        else:
            short = min(width, height)
            wide, high = int(size * width / short), int(size * height / short)
            left, top = -round((wide - size) / 2.0), -round((high - size) / 2.0)
        return left, top, left + wide, top + high

    def _middle(self, picture: Image) -> Image:
        """The middle of a strip, which is all that is seen: 1 x 5000 pixels would be scaled to `size` x 5000 `size`."""
        short, long = sorted(picture.size)
        if self.resize != "shortest" or long <= STRIP * short:
            return picture
        side = 4 * short + long % 2  # an even number of pixels less: the centre stays where it is
        start = (long - side) // 2
        wide = picture.width > picture.height
        return picture.crop((start, 0, start + side, short) if wide else (0, start, short, start + side))

    def __call__(self, picture: Image, rng: random.Random | None = None) -> Tensor:
        """uint8 [3, size, size]; `rng` is not used (training transforms share the signature)."""
        from PIL import Image as pil

        picture = self._middle(to_rgb(picture))
        left, top, right, bottom = self.place(*picture.size)
        if picture.size != (right - left, bottom - top):
            filter_ = pil.Resampling.BICUBIC if self.interpolation == "bicubic" else pil.Resampling.BILINEAR
            picture = picture.resize((right - left, bottom - top), filter_)
        if picture.size != (self.size, self.size):
            square = pil.new("RGB", (self.size, self.size), (self.fill,) * 3)
            square.paste(picture, (left, top))
            picture = square
        return to_tensor(picture)


@dataclass(frozen=True)
class EvaluationCrop:
    """An ImageTransform in training: the same geometry and filter, which decoding may be fused with."""

    transform: ImageTransform

    @property
    def size(self) -> int:
        """Side of the square that the model sees, pixels."""
        return self.transform.size

    @property
    def interpolation(self) -> Interpolation:
        """Filter of the resize."""
        return self.transform.interpolation

    @property
    def fill(self) -> int:
        """Grey level beside the picture."""
        return self.transform.fill

    def fit(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the whole scaled picture in the square that the model sees."""
        return self.transform.place(width, height)

    def __call__(self, picture: Image, rng: random.Random | None = None) -> Tensor:
        """uint8 [3, size, size]."""
        return self.transform(picture, rng)


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
