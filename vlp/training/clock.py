"""The time of a run, over all its parts."""

from __future__ import annotations

import time

from vlp.training.state import TrainState


class Clock:
    """The time of a state, which goes on where its last part ended."""

    def __init__(self, state: TrainState) -> None:
        self.state, self.before, self.samples = state, state.tally.seconds, state.samples
        self.started = self.saved_at = self.evaluated_at = time.monotonic()

    def tick(self, loss: float) -> dict[str, float]:
        """Bring the run's seconds up to date; loss and rate for the progress bar."""
        here = time.monotonic() - self.started
        self.state.tally.seconds = self.before + here
        return {"loss": loss, "samples_per_second": (self.state.samples - self.samples) / max(here, 1e-9)}

    @property
    def since_saved(self) -> float:
        """Seconds since the last checkpoint was begun."""
        return time.monotonic() - self.saved_at

    def saved(self) -> None:
        """A checkpoint has just been begun."""
        self.saved_at = time.monotonic()

    @property
    def evaluation_due(self) -> bool:
        """Whether the minutes between two evaluations are over."""
        minutes = self.state.settings.eval_minutes
        return bool(minutes) and time.monotonic() - self.evaluated_at >= 60 * minutes

    def evaluated(self) -> None:
        """An evaluation has just been made."""
        self.evaluated_at = time.monotonic()
