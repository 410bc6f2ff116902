"""Changes of pictures, one kind a file: what a picture may undergo and still mean the same.

They happen to a whole batch on the device, or to each picture by itself in the stream.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

PictureTransform = Callable[[Any, random.Random], Tensor]
"""A picture and the sample's own source of chance to uint8 [3, H, W]."""


@dataclass(frozen=True)
class Draws:
    """Random numbers for some rows of a global batch: the same for a row, however many ranks share the batch."""

    generator: Generator  # in the same state on every rank, on the device of the pictures
    first: int  # this rank's first row
    count: int  # its rows
    total: int  # rows of the global batch

    @staticmethod
    def alone(count: int, seed: int = 0) -> Draws:
        """Draws for a batch that nobody shares."""
        return Draws(torch.Generator().manual_seed(seed), 0, count, count)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """[count, *shape] between `low` and `high`."""
        drawn = torch.empty(self.total, *shape, device=self.generator.device)
        return drawn.uniform_(low, high, generator=self.generator)[self.first : self.first + self.count]

    def normal(self, *shape: int) -> Tensor:
        """[count, *shape] of mean 0 and variance 1."""
        drawn = torch.empty(self.total, *shape, device=self.generator.device)
        return drawn.normal_(generator=self.generator)[self.first : self.first + self.count]


@dataclass(frozen=True)
class Augment:
    """Configuration of an augmentation, and the augmentation itself."""

    component_package: ClassVar[str] = "vlp.augment"

    def __call__(self, image: Tensor, draws: Draws) -> Tensor:
        """The rows [B, 3, H, W], uint8, changed; `draws` is the only source of chance."""
        raise NotImplementedError

    def in_stream(self, crop: PictureTransform) -> PictureTransform:
        """What the stream does to a picture: the crop of the run, unless the augmentation works there."""
        return crop


def of_rows(
    augment: Callable[[Tensor, Draws], Tensor], image: Tensor, generator: Generator, *, first: int = 0, total: int = 0
) -> Tensor:
    """The rows [B, 3, H, W] of a batch of `total` (0: there are no others) that begin with `first`, changed.

    Of [B, V, 3, H, W] each view is changed by itself.
    """
    views = image.shape[1] if image.ndim == 5 else 1
    draws = Draws(generator, first * views, len(image) * views, (total or len(image)) * views)
    changed = augment(image.flatten(0, -4), draws)
    return changed.view(len(image), views, *changed.shape[1:]) if image.ndim == 5 else changed
