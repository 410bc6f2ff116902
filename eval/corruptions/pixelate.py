"""Pixelation, as of an enlarged picture of low resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture

FACTORS = (0.6, 0.5, 0.4, 0.3, 0.25)


@dataclass(frozen=True)
class Pixelate(Corruption):
    """Makes the picture smaller by averaging, and large again by repeating pixels."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        from PIL import Image

        height, width = picture.shape[:2]
        small = (max(1, int(width * FACTORS[strength - 1])), max(1, int(height * FACTORS[strength - 1])))
        image = Image.fromarray(np.round(picture * 255).astype(np.uint8))
        image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)
        return np.asarray(image, np.float32) / 255
