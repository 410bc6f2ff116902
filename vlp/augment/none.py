"""No augmentation beyond what the stream's crops do."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vlp.augment import Augment, Draws


@dataclass(frozen=True)
class Unchanged(Augment):
    """Pictures as they come."""

    def __call__(self, image: Tensor, draws: Draws) -> Tensor:
        """The batch itself."""
        return image
