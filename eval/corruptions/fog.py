"""Fog: clouds of every size (plasma fractal, by the diamond-square algorithm)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture

FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))  # thickness; how much finer clouds are thinner


@dataclass(frozen=True)
class Fog(Corruption):
    """Adds clouds, and darkens what gets brighter than the picture was."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        thickness, decay = FOG[strength - 1]
        height, width = picture.shape[:2]
        clouds = plasma(1 << (max(height, width) - 1).bit_length(), decay, rng)[:height, :width]
        most = picture.max()
        return np.asarray((picture + thickness * clouds[..., None]) * most / (most + thickness))


def plasma(size: int, decay: float, rng: np.random.Generator) -> NDArray[Any]:
    """[size, size] a random landscape from 0 to 1 that goes on at its edges; size: a power of two."""
    height = np.zeros((size, size))
    step, wobble = size, 100.0
    while step >= 2:
        half = step // 2
        corners = height[::step, ::step]
        squares = corners + np.roll(corners, -1, 0)
        squares = (squares + np.roll(squares, -1, 1)) / 4
        height[half::step, half::step] = squares + wobble * rng.uniform(-1, 1, squares.shape)
        middles = height[half::step, half::step]
        across = (middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)) / 4
        height[::step, half::step] = across + wobble * rng.uniform(-1, 1, across.shape)
        along = (middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)) / 4
        height[half::step, ::step] = along + wobble * rng.uniform(-1, 1, along.shape)
        step, wobble = half, wobble / decay
    height -= height.min()
    return np.asarray(height / max(height.max(), 1e-12))
