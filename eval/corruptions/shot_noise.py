"""Shot noise, as of few photons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruptions import Corruption, Picture

PHOTONS = (60, 25, 12, 5, 3)  # for a value of 1


@dataclass(frozen=True)
class ShotNoise(Corruption):
    """Draws each value from a Poisson distribution."""

    def corrupted(self, picture: Picture, strength: int, rng: np.random.Generator) -> NDArray[Any]:
        """[H, W, 3]."""
        photons = PHOTONS[strength - 1]
        return np.asarray(rng.poisson(picture * photons) / photons)
