"""The learning rate as a pure function of how far a run has come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vlp.errors import UserError

Shape = Literal["cosine", "linear", "constant"]

DECAYS: dict[Shape, Callable[[float], float]] = {
    "cosine": lambda t: 0.5 + 0.5 * math.cos(math.pi * t),  # SGDR (1608.03983), equation 5, without restarts
    "linear": lambda t: 1.0 - t,
    "constant": lambda t: 1.0,
}


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0 to 1, a plateau, and a decay to `final`; the optimizer's lr is multiplied by it."""

    shape: Shape = "cosine"
    """how the learning rate falls after the warm-up"""
    warmup: float = 0.05
    """share of the run, 0 to 1, in which the learning rate climbs from 0 to its peak"""
    decay_from: float = 0.0
    """share of the run at which the fall begins; before it the rate stays at its peak (0: right after the warm-up)"""
    final: float = 0.0
    """what is left at the end, as a share of the peak"""

    def __post_init__(self) -> None:
        for key in ("warmup", "decay_from", "final"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise UserError(f'"schedule.{key}" is {value}, but it is a share: give a number from 0 to 1')

    def __call__(self, progress: float) -> float:
        """The factor, 0 to 1, of the peak learning rate when `progress` (0 to 1) of the run is done."""
        if progress < self.warmup:
            return progress / self.warmup
        start = max(self.warmup, self.decay_from)
        fallen = 0.0 if progress <= start else min((progress - start) / (1.0 - start), 1.0)
        return self.final + (1.0 - self.final) * DECAYS[self.shape](fallen)
