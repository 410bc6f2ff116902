"""What keeps bad batches from spoiling a run: their steps are skipped; where that does not help, the run goes back.

A step whose loss or gradient is not finite, or jumps, is refused. After too many in a row, or when the loss has lost
what it had gained although nothing was refused, the run goes back to its last good checkpoint and goes on with the data
after those that led there (PaLM, 2204.02311, section 5.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from vlp.config import MAY_CHANGE
from vlp.config.bounds import AtLeastZero, Count, Share, Whole
from vlp.errors import UserError

Verdict = Literal["", "the loss is not finite", "the gradient is not finite", "the loss jumped", "the gradient jumped"]


@dataclass(frozen=True)
class Guard:
    """When a step is refused (NaN, infinite, or far above its own running mean), and when the run goes back."""

    loss_spike: AtLeastZero = 3.0
    """refuse a loss this many times its running mean; 0: only one that is not finite"""
    gradient_spike: AtLeastZero = 20.0
    """refuse a gradient norm this many times its running mean; 0: only one that is not finite"""
    patience: Count = 10
    """refused steps in a row after which the run goes back, or stops"""
    settle: Whole = 50
    """steps before a jump can be judged"""
    divergence: Annotated[Share, MAY_CHANGE] = 0.5
    """go back when the loss, over `patience` steps, has lost this share of what it had gained; 0: never"""
    rollbacks: Annotated[Whole, MAY_CHANGE] = 3
    """how often the run may go back to its last good checkpoint, and on with later data; 0: it stops at once"""
    rollback_rate: Annotated[Share, MAY_CHANGE] = 1.0
    """what the learning rate is multiplied by after each time"""
    keep_batches: Annotated[Whole, MAY_CHANGE] = 8
    """refused batches that are kept in RUN/refused, the last ones; 0: none"""
    keep_bytes: Annotated[Whole, MAY_CHANGE] = 1 << 28
    """most bytes that a rank keeps of them"""

    def watch(self) -> Watch:
        """A watch over one run, with nothing seen yet."""
        return Watch(self)


@dataclass
class Watch:
    """The running means of one run, how many steps were refused, and how often it went back.

    Loss and norm are the same numbers on every rank (a global mean, a synchronised gradient), so every rank comes to
    the same verdict without asking the others.
    """

    guard: Guard
    seen: int = 0
    loss: float = 0.0
    norm: float = 0.0
    refused: int = 0
    in_a_row: int = 0
    recent: float = 0.0
    """running mean of the loss over `patience` steps"""
    start: float = 0.0
    """the loss when it had settled"""
    lowest: float = math.inf
    """the least running mean since"""
    rollbacks: int = 0
    """how often the run went back"""
    skipped: int = 0
    """batches that it went round so"""
    rate: float = 1.0
    """what the learning rate is multiplied by since"""
    verdict: Verdict = ""
    """of the last step"""

    def judge(self, loss: float, norm: float) -> Verdict:
        """Why this step must be skipped, or "" for a good one."""
        self.verdict = verdict = self._verdict(loss, norm)
        self.seen += 1
        if math.isfinite(loss) and math.isfinite(norm):
            self._follow(loss, norm)
        self.in_a_row = self.in_a_row + 1 if verdict else 0
        self.refused += bool(verdict)
        return verdict

    @property
    def lost(self) -> str:
        """Why the run cannot go on from here, or ""."""
        if self.in_a_row >= self.guard.patience:
            return f"{self.in_a_row} steps in a row were refused"
        if self._risen() > self.guard.divergence > 0:
            return f"the loss rose from {self.lowest:.4g} to {self.recent:.4g}, and did not come down again"
        return ""

    @property
    def doubtful(self) -> bool:
        """Whether this is no moment to come back to."""
        return self.in_a_row > 0 or self._risen() > self.guard.divergence / 2 > 0

    def _risen(self) -> float:
        """The share of what the loss had gained that is lost; it counts as a quarter of where it began at least."""
        if not math.isfinite(self.lowest):
            return 0.0
        gained = max(self.start - self.lowest, 0.25 * abs(self.start), 1e-12)
        return max(0.0, self.recent - self.lowest) / gained

    def went_back(self, here: Watch, batches: int) -> None:
        """Take over from `here`, where the trouble was, what going back must not undo; `batches` were gone round."""
        self.refused, self.rollbacks = here.refused, here.rollbacks + 1
        self.skipped, self.rate = here.skipped + batches, here.rate * self.guard.rollback_rate

    def give_up(self, loss: float, norm: float, why: str) -> UserError:
        """The sentence with which a run ends that can go neither on nor back."""
        last = f", the last because {self.verdict}" if self.verdict else ""
        return UserError(
            f"training stopped: {self.lost}{last} (loss {loss:.4g}, gradient norm {norm:.4g}), and {why}; look at "
            "the batches in RUN/refused, or lower training.optimizer.lr or lengthen training.schedule.warmup and go on "
            "with --training.resume-from good"
        )

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
        self.recent += max(rate, 1 / self.guard.patience) * (loss - self.recent)
        if self.seen >= max(self.guard.settle, 1):
            self.start = self.start or self.recent
            self.lowest = min(self.lowest, self.recent)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to judge as this one would."""
        return {key: value for key, value in vars(self).items() if key != "guard"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; what an earlier version did not keep stays as it is."""
        for key, value in state.items():
            setattr(self, key, value)
