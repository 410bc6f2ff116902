"""The loss scale of fp16: gradients too small for half precision are made larger, and smaller again before the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlp.batch import Embeddings

EVERY = 2000  # good steps after which the scale doubles

Objective = Callable[[Embeddings], Tensor]


@dataclass
class Scaler:
    """The policy of torch.amp.GradScaler, decided by the norm of the whole gradient, which all ranks know.

    A scale of 1 that never changes where the run is not in fp16.
    """

    active: bool
    scale: float = 1.0
    good: int = 0
    """steps since the scale changed"""
    overflows: int = 0
    """steps that were skipped because a gradient did not fit into fp16"""

    @classmethod
    def of(cls, start: float | None) -> Scaler:
        """The scaler at the start of a run in fp16; None: of any other run."""
        return cls(active=start is not None, scale=start or 1.0)

    def over(self, objective: Objective) -> Objective:
        """`objective` times the scale, and its gradient with it."""
        return (lambda e: objective(e) * self.scale) if self.active else objective

    @torch.no_grad()
    def undo(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> float:
        """The loss itself; the gradients in the parameters too are the true ones afterwards."""
        if self.active:
            for p in parameters:
                if p.grad is not None:
                    p.grad.mul_(1 / self.scale)
        return float(loss) / self.scale

    def overflowed(self, loss: float, norm: float) -> bool:
        """Whether this step must be skipped because of the scale alone, which is halved then: no divergence.

        A gradient that is not finite where the scale is 1 already, or whose loss is not, is the guard's matter.
        """
        if not self.active or not math.isfinite(loss):
            return False
        if math.isfinite(norm):
            self.good += 1
            if self.good == EVERY:
                self.scale, self.good = self.scale * 2, 0
            return False
        if self.scale <= 1:
            return False
        self.scale, self.good = self.scale / 2, 0
        self.overflows += 1
        return True

    def row(self) -> dict[str, float]:
        """The numbers for a logged row; none where the run is not in fp16."""
        return {"loss_scale": self.scale, "overflows": self.overflows} if self.active else {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; a run in fp16 that went on from another precision starts its own scale."""
        if self.active and state["active"]:
            self.scale, self.good, self.overflows = state["scale"], state["good"], state["overflows"]
