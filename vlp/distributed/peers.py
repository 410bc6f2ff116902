"""Peers as process groups, and as groups that are drawn anew for every evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.distributed.collectives import Group, all_gather, all_reduce, all_to_all, reduce_scatter
from vlp.losses.peers import Pending


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


@dataclass(frozen=True)
class DrawnPeers:
    """Some ranks without a process group of their own: each method is an all-to-all of the world (all take part)."""

    members: tuple[int, ...]  # ascending world ranks, mine among them
    world_size: int
    world_rank: int

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.members)

    @property
    def rank(self) -> int:
        """Which of them this is."""
        return self.members.index(self.world_rank)

    def exchange(self, rows: Tensor) -> Tensor:
        """[size * b, ...]: the k-th b rows go to member k, and its rows for me come back in their place."""
        b = rows.shape[0] // self.size
        splits = [b if rank in self.members else 0 for rank in range(self.world_size)]
        return all_to_all(rows, rows.shape[0], splits, splits)

    def gather(self, rows: Tensor) -> Pending:
        """Everyone's rows."""
        out = self.exchange(rows.detach().repeat(self.size, *[1] * (rows.dim() - 1)))
        return lambda: out

    def scatter_sum(self, rows: Tensor) -> Pending:
        """The sum of everyone's rows for me."""
        out = self.exchange(rows).view(self.size, -1, *rows.shape[1:]).sum(0)
        return lambda: out

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum."""
        return self.reduce(values, lambda parts: parts.sum(0))

    def max(self, values: Tensor) -> Tensor:
        """The elementwise maximum."""
        return self.reduce(values, lambda parts: parts.amax(0))

    def reduce(self, values: Tensor, join: Callable[[Tensor], Tensor]) -> Tensor:
        """Everyone's `values` joined: each member joins one slice and hands it round."""
        flat = values.flatten()
        flat = torch.nn.functional.pad(flat, (0, -len(flat) % self.size))
        part = join(self.exchange(flat).view(self.size, -1))
        return self.gather(part)()[: values.numel()].view_as(values)
