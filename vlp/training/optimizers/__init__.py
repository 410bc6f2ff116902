"""One optimizer a file, and what all of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn


@dataclass(frozen=True)
class Optimizer:
    """How weights follow gradients. `build` gives one or more torch optimizers that together own every weight."""

    component_package: ClassVar[str] = "vlp.training.optimizers"
    state_per_weight: ClassVar[int] = 2  # numbers kept for each weight, for the estimate of memory

    def build(self, model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
        """Optimizers of all weights of `model` that want a gradient; each group's `peak` is its full learning rate."""
        raise NotImplementedError


def groups(parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels decay; what has fewer than two axes (norms, biases, logit scale) does not."""
    wanted = [p for p in parameters if p.requires_grad]
    decayed, kept = [p for p in wanted if p.ndim >= 2], [p for p in wanted if p.ndim < 2]
    both = [
        {"params": decayed, "lr": lr, "peak": lr, "weight_decay": weight_decay},
        {"params": kept, "lr": lr, "peak": lr, "weight_decay": 0.0},
    ]
    return [g for g in both if g["params"]]


def set_progress(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Give every group `factor` times its peak learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
