"""What an objective sees of the other processes that share its batch; vlp.distributed implements it for ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses._engine.contrast import Contrast, contrast
from vlp.losses._engine.tile import TileForm, Way


class Defined(TileForm, Protocol):
    """A tile form that can also say what it means."""

    def by_definition(self, e: Embeddings, *, way: Way | None = None) -> Tensor:
        """The loss [] from the whole matrix, or that of one direction."""
        ...


class Among(Protocol):
    """`size` processes with b pairs each. All of them make the same calls in the same order.

    Gradients are such that their mean over processes is the gradient with respect to everybody's pairs.
    """

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    @property
    def rank(self) -> int:
        """Which of them this is: its pairs come after those of lower ones."""
        ...

    @property
    def step(self) -> int:
        """The number of this evaluation, from which random draws follow; the same in a run that was resumed."""
        ...

    def contrast(self, loss: Defined, e: Embeddings, *, way: Way | None = None) -> Contrast:
        """The mean [] of `loss` over everybody's pairs, each compared with everybody's; differentiable once.

        `way`: of one direction alone, that of images (rows) or of captions (columns).
        """
        ...

    def total(self, own: Tensor) -> Tensor:
        """The sum over processes of `own`, of any shape; differentiable."""
        ...

    def number(self, name: str) -> Tensor | None:
        """What was kept under a name: [] of the run, or [b] of these pairs' samples; None where nothing is kept."""
        ...

    def keep(self, name: str, value: Tensor) -> None:
        """Keep another value, [] or [b], of the same kind; it counts once the step is taken.

        A value of the run has to be the same on all of them. Of several values in one step their mean is kept.
        """
        ...


@dataclass(frozen=True)
class Alone:
    """One process that has all pairs."""

    numbers: Mapping[str, Tensor] = field(default_factory=dict)  # what was kept before
    kept: dict[str, Tensor] = field(default_factory=dict)  # what is kept now
    step: int = 0

    @property
    def size(self) -> int:
        """One."""
        return 1

    @property
    def rank(self) -> int:
        """The first."""
        return 0

    def number(self, name: str) -> Tensor | None:
        """What was kept before."""
        return self.numbers.get(name)

    def keep(self, name: str, value: Tensor) -> None:
        """Keep another value."""
        self.kept[name] = value.detach()

    def contrast(self, loss: Defined, e: Embeddings, *, way: Way | None = None) -> Contrast:
        """Tile by tile: memory is flat in the number of pairs."""
        return contrast(loss, e, way=way)

    def total(self, own: Tensor) -> Tensor:
        """Its own."""
        return own


class ByDefinition(Alone):
    """The same by what losses mean, through autograd: the oracle."""

    def contrast(self, loss: Defined, e: Embeddings, *, way: Way | None = None) -> Contrast:
        """The value from the whole matrix of logits; what pairs know of it is the engine's."""
        with torch.no_grad():
            seen = contrast(loss, e, way=way)
        return Contrast(loss.by_definition(e, way=way), seen.rows, seen.columns)


ALONE = Alone()
BY_DEFINITION = ByDefinition()


def mean(among: Among, own: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of `own` [b, ...] over everybody's pairs, by their weights [b] if there are any."""
    if weights is None:
        return among.total(own.sum(0)) / (len(own) * among.size)
    weights = weights.to(own.dtype)
    return among.total(torch.tensordot(weights, own, 1)) / among.total(weights.sum())
