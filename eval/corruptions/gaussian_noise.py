"""Gaussian noise, as of little light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture

DEVIATIONS = (0.08, 0.12, 0.18, 0.26, 0.38)


@dataclass(frozen=True)
class GaussianNoise(Corruption):
    """Adds a normal number to each value."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        return picture + rng.normal(0, DEVIATIONS[strength - 1], picture.shape)
