"""The inverse square root of the time since the warm-up (1706.03762, section 5.3), and a cooldown (2106.04560)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Gt, Le

from vlp.config.bounds import Share, Whole
from vlp.training.schedules import Schedule


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """1 / sqrt(1 + t / timescale), t since the warm-up or the plateau; a straight line to `final` ends it.

    With `timescale` equal to `warmup` it is sqrt(warmup / progress), the Transformer's.
    """

    timescale: Annotated[float, Gt(0), Le(1)] = 0.05
    """share of the run after which 1 / sqrt(2) of the peak is left"""
    timescale_samples: Whole = 0
    """the same in pairs, which a change of the budget leaves as it is; 0: `timescale` counts"""
    cooldown: Share = 0.1
    """share of the run, at its end, in which the rate falls to `final`; 0: it does not"""

    def of(self, samples: int) -> Schedule:
        """The same schedule for a run of `samples` pairs, its lengths as shares of them."""
        share = min(self.timescale_samples / samples, 1.0)
        own = replace(self, timescale=share, timescale_samples=0) if self.timescale_samples else self
        return super(InverseSquareRoot, own).of(samples)

    def __call__(self, progress: float) -> float:
        """The factor, 0 to 1, of the peak learning rate when `progress` (0 to 1) of the run is done."""
        if progress < self.warmup:
            return progress / self.warmup
        start = max(self.warmup, self.decay_from)
        end = max(start, 1.0 - self.cooldown)
        since = max(min(progress, end) - start, 0.0)
        before = max(self.final, 1.0 / math.sqrt(1.0 + since / self.timescale))
        return before if progress <= end else self.final + (before - self.final) * (1.0 - progress) / (1.0 - end)

    def decay(self, fallen: float) -> float:
        """Not a function of the share of the fall alone: `__call__` has it."""
        raise NotImplementedError
