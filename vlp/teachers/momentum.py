"""The running mean of the model's own weights as its teacher (MoCo, 1911.05722; ALBEF, 2107.07651, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from vlp.batch import Batch, Embeddings
from vlp.config import COMMON
from vlp.config.bounds import Decay
from vlp.distributed.sharding import part
from vlp.teachers import Given, Guide, Teacher
from vlp.training.average import averaged
from vlp.training.teaching import Setting, encoded, size_of


@dataclass(frozen=True)
class Momentum(Teacher):
    """The mean of the model's recent weights."""

    decay: Annotated[Decay, COMMON] = 0.995
    """share of the mean that is kept at each step: it spans the last 1 / (1 - decay) steps (ALBEF: 0.995)"""

    def open(self, given: Given) -> Following:
        """A copy of the model that follows it."""
        return Following(self.decay)


class Following(Guide):
    """A copy of the model, in evaluation mode, that goes after it.

    The mean is that of `averaged`: the first weights count as the first step's do, and no more. ALBEF's own mean holds
    on to them, to decay^n of it after n steps.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def memory(self, model: nn.Module, shards: int) -> int:
        """The mean's weights."""
        return size_of(model) // shards

    def begin(self, model: nn.Module, setting: Setting) -> None:
        """Copy the model."""
        self.model, self.setting, self.width = model, setting, setting.width
        self.mean = averaged(model, self.decay).to(setting.device, setting.dtype)

    @property
    def copies(self) -> tuple[nn.Module, ...]:
        """The mean, which is shared out as the model is."""
        return (self.mean.module,)

    def __call__(self, batch: Batch, e: Embeddings) -> tuple[Tensor, Tensor]:
        """What the mean of the weights makes of the batch, as it is augmented."""
        return encoded(self.mean, batch.image, batch.text, self.setting)

    @torch.no_grad()
    def taken(self) -> None:
        """Move the mean."""
        self.mean.update_parameters(self.model)

    def state_dict(self) -> dict[str, Tensor]:
        """The mean, and of how many steps it is."""
        return dict(self.mean.state_dict())

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with the mean of another part of the run, on any number of ranks."""
        for name, own in self.mean.state_dict().items():
            own.copy_(part(tensors[name], own))
