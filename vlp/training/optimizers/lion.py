"""Lion (2302.06675, algorithm 2): the sign of an interpolated momentum. Half of AdamW's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from vlp.config import COMMON
from vlp.config.bounds import AtLeastZero, Decay, Positive
from vlp.training.optimizers import Optimizer


@dataclass(frozen=True)
class Lion(Optimizer):
    """Sign momentum. Usual settings beside AdamW's: a third to a tenth of its lr, and as many times its decay."""

    state_per_weight: ClassVar[int] = 1

    lr: Annotated[Positive, COMMON] = 2e-4
    """peak learning rate"""
    weight_decay: Annotated[AtLeastZero, COMMON] = 0.5
    """share of a matrix that decays per step, times the learning rate"""
    beta1: Decay = 0.9
    """share of the momentum in the direction of the step"""
    beta2: Decay = 0.99
    """memory of the momentum"""

    def build(self, model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
        """One Lion over all weights."""
        parameters = self.groups(model, lr=self.lr, weight_decay=self.weight_decay)
        return (SignMomentum(parameters, beta1=self.beta1, beta2=self.beta2),)


class SignMomentum(torch.optim.Optimizer):
    """w ← (1 − lr·λ) w − lr·sign(β1 m + (1 − β1) g);  m ← β2 m + (1 − β2) g."""

    def __init__(self, parameters: list[dict[str, Any]], *, beta1: float, beta2: float) -> None:
        super().__init__(parameters, {"beta1": beta1, "beta2": beta2})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momentum = state["momentum"]
                direction = momentum.lerp(p.grad, 1 - group["beta1"]).sign_()
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                momentum.lerp_(p.grad, 1 - group["beta2"])
