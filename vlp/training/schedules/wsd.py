"""Warm-up, stable, decay (MiniCPM, 2404.06395): a plateau that a longer run shares, and a short fall at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlp.config.bounds import Share
from vlp.training.schedules import Schedule


@dataclass(frozen=True)
class WSD(Schedule):
    """Stays at the peak, then falls fast: extended from a checkpoint on its plateau, it is the longer run's own."""

    decay_from: Share = 0.8
    """share of the run at which the fall begins (2405.18392: the last 10 to 20 percent are enough)"""
    shape: Literal["one_minus_sqrt", "linear"] = "one_minus_sqrt"
    """how it falls: 1 - sqrt(t), the best of 2405.18392, or a straight line"""

    def decay(self, fallen: float) -> float:
        """The factor, 1 to 0."""
        return 1.0 - (fallen**0.5 if self.shape == "one_minus_sqrt" else fallen)
