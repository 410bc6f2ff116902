"""Impulse noise (salt and pepper), as of bit errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture

SHARES = (0.03, 0.06, 0.09, 0.17, 0.27)


@dataclass(frozen=True)
class ImpulseNoise(Corruption):
    """Makes a share of the values 0 or 1."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        struck = rng.random(picture.shape) < SHARES[strength - 1]
        return np.where(struck, rng.integers(0, 2, picture.shape), picture)
