"""Motion blur, as of a camera that moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture, of_side
from eval.corruptions._filters import sampled

RADII = (10, 15, 15, 15, 20)
DEVIATIONS = (3, 5, 8, 12, 15)


@dataclass(frozen=True)
class MotionBlur(Corruption):
    """Spreads each point along a line, less and less, in a random direction up to 45 degrees from the horizontal."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        angle = np.deg2rad(rng.uniform(-45, 45))
        sigma = of_side(DEVIATIONS[strength - 1], picture)
        steps = np.linspace(0, of_side(RADII[strength - 1], picture), RADII[strength - 1])
        weights = np.exp(-(steps**2) / (2 * sigma**2))
        rows, columns = np.meshgrid(*map(np.arange, picture.shape[:2]), indexing="ij")
        moved = [sampled(picture, rows + step * np.sin(angle), columns + step * np.cos(angle)) for step in steps]
        return np.asarray(np.tensordot(weights / weights.sum(), np.stack(moved), 1))
