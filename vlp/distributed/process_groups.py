"""Peers of the engine that are the ranks of a process group."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vlp.distributed.collectives import Group, all_gather, all_reduce, reduce_scatter
from vlp.losses._engine.peers import Pending


@dataclass(frozen=True)
class GroupPeers:
    """The ranks of one process group; each method is one collective of that group."""

    group: Group
    size: int
    rank: int

    def gather(self, rows: Tensor) -> Pending:
        """Everyone's rows."""
        return all_gather(rows, self.group, self.size)

    def scatter_sum(self, rows: Tensor) -> Pending:
        """The sum of everyone's rows for me."""
        return reduce_scatter(rows, self.group, self.size)

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum."""
        return all_reduce(values, self.group)

    def max(self, values: Tensor) -> Tensor:
        """The elementwise maximum."""
        return all_reduce(values, self.group, largest=True)
