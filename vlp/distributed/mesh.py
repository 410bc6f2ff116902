"""The R x C grid of ranks: rows inside a node where that is possible, columns across nodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import cast

import torch.distributed as dist

from vlp.distributed.collectives import Group
from vlp.distributed.process_groups import GroupPeers
from vlp.errors import UserError
from vlp.losses._engine.peers import ALONE, Peers


@dataclass(frozen=True)
class Mesh:
    """Ranks in R rows and C columns. Rank (i, j) computes the images of row i against the captions of column j."""

    ranks: tuple[tuple[int, ...], ...]  # R rows of C ranks

    @staticmethod
    def of(nodes: tuple[int, ...], rows: int, columns: int) -> Mesh:
        """The ranks laid out row by row, node by node: `nodes[r]` is the node of rank r.

        Where C divides the ranks per node, every row lies inside one node, however the launcher numbers them.
        """
        if rows * columns != len(nodes):
            raise UserError(
                f"a grid of {rows} x {columns} has {rows * columns} places and the world has {len(nodes)} ranks; "
                "training.negatives should be grid:RxC with R x C = the number of ranks"
            )
        order = sorted(range(len(nodes)), key=lambda rank: (nodes[rank], rank))
        return Mesh(tuple(tuple(order[i * columns : (i + 1) * columns]) for i in range(rows)))

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""
        return len(self.ranks), len(self.ranks[0])

    def place(self, rank: int) -> tuple[int, int]:
        """(i, j) of a rank."""
        return next((i, row.index(rank)) for i, row in enumerate(self.ranks) if rank in row)

    def column(self, j: int) -> tuple[int, ...]:
        """The ranks of column j, top to bottom."""
        return tuple(row[j] for row in self.ranks)


def axes(mesh: Mesh, rank: int) -> tuple[Peers, Peers]:
    """(those of my row, those of my column); the first call makes the process groups (all ranks take part)."""
    return _axes(mesh, rank, dist.group.WORLD)


@cache
def _axes(mesh: Mesh, rank: int, world: dist.ProcessGroup | None) -> tuple[Peers, Peers]:
    rows, columns = mesh.shape
    i, j = mesh.place(rank)
    # every rank creates every group, its own or not, in the same order
    mine = [group_of(row, rank) for row in mesh.ranks][i] if columns > 1 else ALONE
    across = [group_of(mesh.column(k), rank) for k in range(columns)][j] if rows > 1 else ALONE
    return mine, across


def group_of(ranks: tuple[int, ...], rank: int) -> Peers:
    """The peers of a set of ranks, numbered in ascending order of rank (all ranks of the world take part)."""
    members = sorted(ranks)
    group = cast(Group, dist.new_group(members))  # a mere marker for those outside, who never use it
    return GroupPeers(group, size=len(members), rank=members.index(rank) if rank in members else -1)
