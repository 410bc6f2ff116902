"""Grouped: each pair meets the negatives of some ranks only, drawn anew for every evaluation. An approximation."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.distributed.collectives import all_to_all
from vlp.losses._engine.peers import Peers, Pending


def drawn(*, size: int, rank: int, group: int, seed: int, step: int) -> Peers:
    """The `group` ranks of `size` that share negatives with `rank` in this step: the same draw on every rank."""
    order = random.Random(f"{seed}:{step}").sample(range(size), size)
    first = order.index(rank) // group * group
    return DrawnPeers(tuple(sorted(order[first : first + group])), size, rank)


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
