"""Defocus blur, as of a lens out of focus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture, of_side
from eval.corruptions._filters import convolved, disk, gaussian

RADII = (3, 4, 6, 8, 10)
SOFT = (0.1, 0.5, 0.5, 0.5, 0.5)  # blur of the disk's edge


@dataclass(frozen=True)
class DefocusBlur(Corruption):
    """Spreads each point over a disk."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        sharp = convolved(picture, disk(max(0.5, of_side(RADII[strength - 1], picture))))
        return gaussian(sharp, of_side(SOFT[strength - 1], picture))
