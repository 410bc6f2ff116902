"""What another budget or schedule does to the learning rate of a run that goes on with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlp.config import build, to_tree
from vlp.errors import UserError
from vlp.training.checkpoints.identity import Identity, flat
from vlp.training.schedules import Schedule
from vlp.training.settings import Training

PLACES = 200  # where two curves are compared
SAME = 1e-6  # of the peak


@dataclass(frozen=True)
class Budget:
    """How many steps of how many pairs, and the learning rate over them."""

    samples: int
    steps: int
    kind: str
    schedule: Schedule

    @staticmethod
    def of(identity: Identity) -> Budget:
        """The budget in the identity of a run."""
        prefix = "training.schedule."
        tree: dict[str, Any] = {k.removeprefix(prefix): v for k, v in identity.items() if k.startswith(prefix)}
        samples, batch = int(identity["training.samples"]), int(identity["training.batch"])
        steps = -(-samples // batch)
        schedule = build(Schedule, tree, "training.schedule").of(steps * batch)
        return Budget(samples, steps, str(tree["name"]), schedule)

    def rate(self, step: float) -> float:
        """The share of the peak learning rate after `step` steps."""
        return self.schedule(min(step / self.steps, 1.0))


def extension(saved: Identity, training: Training, step: int) -> str:
    """What changes for a run that stands after `step` steps; empty if budget and schedule are those of before.

    `saved` is the identity that the checkpoint was written with. Raises UserError if the new budget is spent already.
    """
    then, now = Budget.of(saved), Budget.of(flat({"training": to_tree(training)}))
    if then == now:
        return ""
    seen = step * training.batch
    if now.steps < step:
        raise UserError(
            f"training.samples is {training.samples:,}, but this run has seen {seen:,} pairs already; give more, or "
            "another run folder"
        )
    apart = max(abs(then.rate(k * step / PLACES) - now.rate(k * step / PLACES)) for k in range(PLACES + 1))
    before, after = then.rate(step), now.rate(step)
    text = (
        f"extended: {seen:,} of {then.samples:,} pairs were seen, and {now.samples:,} are wanted now; the learning "
        f"rate was at {before:.3g} of its peak ({then.kind}) and goes on at {after:.3g} ({now.kind}), "
    )
    if apart <= SAME:
        return text + "as in a run of this length from the start: nothing of what is done would have been different"
    text += (
        f"but a run of this length from the start would have had other rates so far, by up to {apart:.2g} of the peak"
    )
    if after > before + SAME:
        text += "; it rises again, so the loss will rise before it falls"
    return text + " (wsd with warmup_samples, extended from a checkpoint on its plateau, has no such break)"
