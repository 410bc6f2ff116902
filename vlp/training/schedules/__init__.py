"""The learning rate as a pure function of how far a run has come; one way to fall a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from vlp.config import COMMON
from vlp.config.bounds import Share, Whole, check
from vlp.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0 to 1, a plateau, and a decay to `final`; the optimizer's lr is multiplied by it."""

    component_package: ClassVar[str] = "vlp.training.schedules"

    warmup: Annotated[Share, COMMON] = 0.05
    """share of the run, 0 to 1, in which the learning rate climbs from 0 to its peak"""
    warmup_samples: Whole = 0
    """the same in pairs, which a change of the budget leaves as it is; 0: `warmup` counts"""
    decay_from: Share = 0.0
    """share of the run at which the fall begins; before it the rate stays at its peak (0: right after the warm-up)"""
    final: Share = 0.0
    """what is left at the end, as a share of the peak"""

    def __post_init__(self) -> None:
        check(self, "training.schedule")

    def of(self, samples: int) -> Schedule:
        """The same schedule for a run of `samples` pairs, its lengths as shares of them.

        Raises UserError if the warm-up is longer than the run.
        """
        if self.warmup_samples > samples:
            raise UserError(
                f"training.schedule.warmup_samples is {self.warmup_samples:,}, but the run has {samples:,} pairs "
                "(training.samples): make it less, or 0 to give training.schedule.warmup as a share"
            )
        share = self.warmup_samples / samples
        return replace(self, warmup=share, warmup_samples=0) if self.warmup_samples else self

    def decay(self, fallen: float) -> float:
        """The factor, 1 to 0, when `fallen` (0 to 1) of the time for the fall is over."""
        raise NotImplementedError

    def __call__(self, progress: float) -> float:
        """The factor, 0 to 1, of the peak learning rate when `progress` (0 to 1) of the run is done."""
        if progress < self.warmup:
            return progress / self.warmup
        start = max(self.warmup, self.decay_from)
        fallen = 0.0 if progress <= start else min((progress - start) / (1.0 - start), 1.0)
        return self.final + (1.0 - self.final) * self.decay(fallen)
