"""What an objective sees of the other processes that share its batch; vlp.distributed implements it for ranks."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses._engine.contrast import contrast
from vlp.losses._engine.tile import TileForm


class Defined(TileForm, Protocol):
    """A tile form that can also say what it means."""

    def by_definition(self, e: Embeddings) -> Tensor:
        """The loss [] from the whole matrix."""
        ...


class Among(Protocol):
    """`size` processes with b pairs each. All of them make the same calls in the same order.

    Gradients are such that their mean over processes is the gradient with respect to everybody's pairs.
    """

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    def contrast(self, loss: Defined, e: Embeddings) -> Tensor:
        """The mean [] of `loss` over everybody's pairs, each compared with everybody's; differentiable once."""
        ...

    def total(self, own: Tensor) -> Tensor:
        """The sum over processes of `own`, of any shape; differentiable."""
        ...


class Alone:
    """One process that has all pairs."""

    size = 1

    def contrast(self, loss: Defined, e: Embeddings) -> Tensor:
        """Tile by tile: memory is flat in the number of pairs."""
        return contrast(loss, e)

    def total(self, own: Tensor) -> Tensor:
        """Its own."""
        return own


class ByDefinition(Alone):
    """The same by what losses mean, through autograd: the oracle."""

    def contrast(self, loss: Defined, e: Embeddings) -> Tensor:
        """From the whole matrix of logits."""
        return loss.by_definition(e)


ALONE = Alone()
BY_DEFINITION = ByDefinition()


def mean(among: Among, own: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of `own` [b, ...] over everybody's pairs, by their weights [b] if there are any."""
    if weights is None:
        return among.total(own.sum(0)) / (len(own) * among.size)
    weights = weights.to(own.dtype)
    return among.total(torch.tensordot(weights, own, 1)) / among.total(weights.sum())
