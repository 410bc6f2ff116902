"""What keeps one bad batch from spoiling a run: steps that are not finite, or that jump, are skipped and counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vlp.config.bounds import AtLeastZero, Count, Whole
from vlp.errors import UserError

Verdict = Literal["", "the loss is not finite", "the gradient is not finite", "the loss jumped", "the gradient jumped"]


@dataclass(frozen=True)
class Guard:
    """When a step is refused: its loss or gradient norm is NaN, infinite, or far above its own running mean."""

    loss_spike: AtLeastZero = 3.0
    """refuse a loss this many times its running mean; 0: only one that is not finite"""
    gradient_spike: AtLeastZero = 20.0
    """refuse a gradient norm this many times its running mean; 0: only one that is not finite"""
    patience: Count = 10
    """stop the run after this many refused steps in a row"""
    settle: Whole = 50
    """steps before a jump can be judged"""

    def watch(self) -> Watch:
        """A watch over one run, with nothing seen yet."""
        return Watch(self)


@dataclass
class Watch:
    """The running means of one run, and how many steps were refused.

    Loss and norm are the same numbers on every rank (a global mean, a synchronised gradient), so every rank comes to
    the same verdict without asking the others.
    """

    guard: Guard
    seen: int = 0
    loss: float = 0.0
    norm: float = 0.0
    refused: int = 0
    in_a_row: int = 0

    def judge(self, loss: float, norm: float) -> Verdict:
        """Why this step must be skipped, or "" for a good one.

        Raises UserError after `patience` refusals in a row.
        """
        verdict = self._verdict(loss, norm)
        self.seen += 1
        if math.isfinite(loss) and math.isfinite(norm):
            self._follow(loss, norm)
        self.in_a_row = self.in_a_row + 1 if verdict else 0
        self.refused += bool(verdict)
        if self.in_a_row >= self.guard.patience:
            raise UserError(
                f"training stopped: {self.in_a_row} steps in a row were refused, the last because {verdict} "
                f"(loss {loss:.4g}, gradient norm {norm:.4g}); look at the data of these steps, or lower "
                "training.optimizer.lr or lengthen training.schedule.warmup and go on with --training.resume-from good"
            )
        return verdict

    def _verdict(self, loss: float, norm: float) -> Verdict:
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        if self.seen < self.guard.settle:
            return ""
        if self.guard.loss_spike and loss > self.guard.loss_spike * self.loss > 0:
            return "the loss jumped"
        if self.guard.gradient_spike and norm > self.guard.gradient_spike * self.norm > 0:
            return "the gradient jumped"
        return ""

    def _follow(self, loss: float, norm: float) -> None:
        # A spike moves the mean no further than the limit would: a lasting change of level is followed in the end.
        rate = max(1 / (self.seen or 1), 0.02)
        if self.seen >= self.guard.settle:
            loss = min(loss, self.guard.loss_spike * self.loss) if self.guard.loss_spike and self.loss > 0 else loss
            norm = (
                min(norm, self.guard.gradient_spike * self.norm)
                if self.guard.gradient_spike and self.norm > 0
                else norm
            )
        self.loss += rate * (loss - self.loss)
        self.norm += rate * (norm - self.norm)

    def state_dict(self) -> dict[str, float]:
        """Everything that a resumed run needs to judge as this one would."""
        return {k: getattr(self, k) for k in ("seen", "loss", "norm", "refused", "in_a_row")}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take over what `state_dict` gave."""
        for key, value in state.items():
            setattr(self, key, value)
