"""Weight averaging: the mean of the recent weights is the model that is evaluated and saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` whose `update_parameters(model)` moves it towards the mean of the last 1 / (1 − decay) steps.

    After n updates the average is Σ d^(n−k) w_k / Σ d^(n−k), k = 1 ... n: the weights of the beginning do not linger in
    it (Adam's bias correction, 1412.6980, section 3). Float buffers, such as a norm's running statistics, are averaged
    too; integer ones are copied.
    """

    @torch.no_grad()
    def move(average: Sequence[Tensor], current: Sequence[Tensor], seen: Tensor | int) -> None:
        rate = (1 - decay) / (1 - decay ** (int(seen) + 1))
        for mean, now in zip(average, current, strict=True):
            mean.lerp_(now, rate) if mean.is_floating_point() else mean.copy_(now)

    copy = AveragedModel(model, multi_avg_fn=move, use_buffers=True)
    return copy.requires_grad_(False).eval()
