"""Brightness, as of too long an exposure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture

ADDED = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Brightness(Corruption):
    """Adds to the value of hue, saturation and value, which leaves the first two as they are."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        value = picture.max(axis=2, keepdims=True)
        brighter = np.minimum(1, value + ADDED[strength - 1])
        grey = np.broadcast_to(brighter, picture.shape)
        return np.where(value > 0, picture * np.divide(brighter, value, out=np.ones_like(value), where=value > 0), grey)
