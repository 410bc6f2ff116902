"""Zoom blur, as of a camera that comes nearer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture
from eval.corruptions._filters import sampled

FACTORS = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.33, 0.03))  # up to, in steps of


@dataclass(frozen=True)
class ZoomBlur(Corruption):
    """The mean of the picture and of enlargements of its middle."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        factors = np.arange(1, *FACTORS[strength - 1])
        middle = [(side - 1) / 2 for side in picture.shape[:2]]
        rows, columns = np.meshgrid(*map(np.arange, picture.shape[:2]), indexing="ij")
        nearer = [
            sampled(picture, middle[0] + (rows - middle[0]) / f, middle[1] + (columns - middle[1]) / f) for f in factors
        ]
        return np.asarray(np.mean([picture, *nearer], axis=0))
