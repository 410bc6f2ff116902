"""JPEG compression."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture
from vlp.pictures import Limits, decode

QUALITIES = (25, 18, 15, 10, 7)


@dataclass(frozen=True)
class Jpeg(Corruption):
    """Writes the picture as a JPEG of low quality and reads it again."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        from PIL import Image

        with io.BytesIO() as file:
            image = Image.fromarray(np.round(picture * 255).astype(np.uint8))
            image.save(file, "JPEG", quality=QUALITIES[strength - 1])
            return np.asarray(decode(file.getvalue(), Limits()), np.float32) / 255
