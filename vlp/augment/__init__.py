"""Changes to a batch of pictures on the device, one kind a file: what a picture may undergo and still mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor


@dataclass(frozen=True)
class Augment:
    """Configuration of an augmentation, and the augmentation itself."""

    component_package: ClassVar[str] = "vlp.augment"

    def __call__(self, image: Tensor, generator: Generator) -> Tensor:
        """The batch [B, 3, H, W], uint8, changed; `generator`, on the same device, is the only source of chance."""
        raise NotImplementedError
