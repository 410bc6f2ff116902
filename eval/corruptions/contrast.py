"""Contrast, as of flat light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture

FACTORS = (0.4, 0.3, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class Contrast(Corruption):
    """Brings every value nearer to the mean of its channel."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        mean = picture.mean(axis=(0, 1), keepdims=True)
        return np.asarray((picture - mean) * FACTORS[strength - 1] + mean)
