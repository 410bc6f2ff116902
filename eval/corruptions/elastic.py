"""Elastic transformation: a slight affine one, and smooth random displacements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture
from eval.corruptions._filters import gaussian, sampled

# displacement, its smoothness, and how far three points are moved, each as a part of the side
SHIFTS = ((2.0, 0.7, 0.1), (2.0, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))


@dataclass(frozen=True)
class Elastic(Corruption):
    """Moves the pixels about."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        alpha, sigma, affine = (part * min(picture.shape[:2]) for part in SHIFTS[strength - 1])
        rows, columns = np.meshgrid(*map(np.arange, picture.shape[:2]), indexing="ij")
        middle = np.array(picture.shape[:2]) // 2
        third = min(picture.shape[:2]) // 3
        points = np.array([middle + third, [middle[0] + third, middle[1] - third], middle - third], np.float64)
        moved = points + rng.uniform(-affine, affine, points.shape)
        matrix = np.linalg.solve(np.c_[moved, np.ones(3)], points)  # where each point of the result comes from
        places = np.stack([rows, columns, np.ones_like(rows)], axis=-1) @ matrix
        noise = rng.uniform(-1, 1, (*picture.shape[:2], 2))
        places = places + alpha * gaussian(noise, sigma)
        return sampled(picture, places[..., 0], places[..., 1])
