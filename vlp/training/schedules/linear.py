"""A straight line from 1 to 0."""

from __future__ import annotations

from dataclasses import dataclass

from vlp.training.schedules import Schedule


@dataclass(frozen=True)
class Linear(Schedule):
    """Falls evenly."""

    def decay(self, fallen: float) -> float:
        """The factor, 1 to 0."""
        return 1.0 - fallen
