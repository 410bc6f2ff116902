"""AdamW (1711.05101), torch's fused kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from vlp.config import COMMON
from vlp.config.bounds import AtLeastZero, Decay, Positive
from vlp.training.optimizers import Optimizer


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay, which norms, biases and the logit scale are spared."""

    lr: Annotated[Positive, COMMON] = 1e-3
    """peak learning rate"""
    weight_decay: Annotated[AtLeastZero, COMMON] = 0.1
    """share of a matrix that decays per step, times the learning rate"""
    beta1: Decay = 0.9
    """memory of the mean gradient"""
    beta2: Decay = 0.98
    """memory of the mean squared gradient"""
    eps: Positive = 1e-6
    """what keeps the division safe"""

    def build(self, model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
        """One fused AdamW over all weights."""
        parameters = self.groups(model, lr=self.lr, weight_decay=self.weight_decay)
        return (torch.optim.AdamW(parameters, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=True),)
