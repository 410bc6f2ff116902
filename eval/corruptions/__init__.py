"""Common corruptions of pictures, one a file, at five strengths (Hendrycks and Dietterich 2019).

They are done to the picture as a model gets it, after resizing and cropping, as in ImageNet-C, and with ImageNet-C's
parameters; those that are lengths are for a side of 224 pixels, and in proportion for other sides.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Picture = NDArray[np.float32]
"""[H, W, 3], from 0 to 1"""
SIDE = 224  # pixels, that lengths are for
STRENGTHS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """Base of all corruptions."""

    component_package: ClassVar[str] = "eval.corruptions"

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """The picture [H, W, 3] at a strength from 1 to 5; what lies outside of 0 to 1 is clipped by the caller."""
        raise NotImplementedError

    def __call__(self, pixels: Tensor, strength: int, *, key: str, seed: int = 0) -> Tensor:
        """uint8 [3, H, W], corrupted; what is random about it depends on key, seed, strength and the kind alone."""
        import torch

        name = f"{seed}/{type(self).__name__}/{strength}/{key}"
        rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
        picture = np.asarray(pixels.permute(1, 2, 0).numpy() / np.float32(255), np.float32)
        result = np.clip(self.corrupted(picture, strength, rng), 0, 1)
        return torch.from_numpy(np.round(result * 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


def of_side(length: float, picture: Picture) -> float:
    """A length that is meant for pictures of 224 pixels, for this picture's shorter side."""
    return float(length * min(picture.shape[:2]) / SIDE)
