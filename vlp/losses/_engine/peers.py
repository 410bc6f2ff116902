"""The processes that share a matrix of logits, as an interface; vlp.distributed implements it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor

Pending: TypeAlias = Callable[[], Tensor]
"""A result on its way: calling it waits for it."""


class Peers(Protocol):
    """`size` holders of b rows each, of whom this is number `rank`. All must make the same calls in the same order."""

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    @property
    def rank(self) -> int:
        """Which of them this is."""
        ...

    def gather(self, rows: Tensor) -> Pending:
        """Everyone's rows [size * b, ...] in order of rank."""
        ...

    def scatter_sum(self, rows: Tensor) -> Pending:
        """From [size * b, ...] everywhere: the sum over peers of my own b rows."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum over peers."""
        ...

    def max(self, values: Tensor) -> Tensor:
        """The elementwise maximum over peers."""
        ...


class Alone:
    """No peers: one process with all pairs."""

    size = 1
    rank = 0

    def gather(self, rows: Tensor) -> Pending:
        """Everyone's rows."""
        return lambda: rows

    def scatter_sum(self, rows: Tensor) -> Pending:
        """The sum of everyone's rows for me."""
        return lambda: rows

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum."""
        return values

    def max(self, values: Tensor) -> Tensor:
        """The elementwise maximum."""
        return values


ALONE = Alone()
