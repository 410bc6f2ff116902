"""Half a cosine from 1 to 0 (SGDR, 1608.03983, equation 5, without restarts)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vlp.training.schedules import Schedule


@dataclass(frozen=True)
class Cosine(Schedule):
    """Falls slowly, then fast, then slowly again."""

    def decay(self, fallen: float) -> float:
        """The factor, 1 to 0."""
        return 0.5 + 0.5 * math.cos(math.pi * fallen)
