"""No fall: the rate stays at its peak after the warm-up."""

from __future__ import annotations

from dataclasses import dataclass

from vlp.training.schedules import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """Stays at the peak."""

    def decay(self, fallen: float) -> float:
        """The factor, 1 to 0."""
        return 1.0
