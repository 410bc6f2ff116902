"""One optimizer a file, and what all of them share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from vlp.training.parameter_groups import Named, TowerRate, groups, rates


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How weights follow gradients. `build` gives one or more torch optimizers that together own every weight."""

    component_package: ClassVar[str] = "vlp.training.optimizers"
    state_per_weight: ClassVar[int] = 2  # numbers kept for each weight, for the estimate of memory

    image: TowerRate = field(default_factory=TowerRate)
    """learning rates of the image tower"""
    text: TowerRate = field(default_factory=TowerRate)
    """learning rates of the text tower"""
    spare_embeddings: bool = False
    """no weight decay for class and position embeddings, as timm's optimizers; false: matrices decay, as open_clip's"""

    def groups(
        self, model: nn.Module, named: Iterable[Named] | None = None, *, lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Parameter groups of `named` weights of `model` (all of them, unless given) at this optimizer's rates."""
        factors = rates(model, self.image, self.text)
        own = model.named_parameters() if named is None else named
        return groups(own, lr=lr, weight_decay=weight_decay, factors=factors, spare_embeddings=self.spare_embeddings)

    def build(self, model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
        """Optimizers of all weights of `model` that want a gradient; each group's `peak` is its full learning rate."""
        raise NotImplementedError


def set_progress(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Give every group `factor` times its peak learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
