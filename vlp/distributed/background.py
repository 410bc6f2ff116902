"""All ranks over gloo, in a group of their own: for what happens beside training, and for what may take long.

Training never uses this group, so a background thread may; and nobody gives up waiting here, because a rank that dies
ends the others through the lifeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from vlp.distributed.collectives import Group, gather_objects
from vlp.distributed.world import World

T = TypeVar("T")
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class BackgroundGroup:
    """The ranks of a run, for plain Python values; each method is one collective. One thread at a time may use it."""

    rank: int = 0
    size: int = 1
    group: Group = None

    @staticmethod
    def open(world: World) -> BackgroundGroup:
        """A group of all ranks of `world` (all ranks take part); of one process, no group at all."""
        if world.size == 1:
            return BackgroundGroup()
        group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        return BackgroundGroup(world.rank, world.size, group)

    def everyones(self, value: T) -> list[T]:
        """`value` of every rank, in order of rank."""
        return [value] if self.size == 1 else gather_objects(value, self.group)

    def at_rank_0(self, value: T) -> list[T]:
        """`value` of every rank on rank 0; elsewhere nothing."""
        if self.size == 1:
            return [value]
        every: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, every, dst=0, group=self.group)
        return every or []

    def each_its_own(self, values: Sequence[T]) -> T:
        """The value that rank 0 has for this rank; the other ranks give anything."""
        if self.size == 1:
            return values[0]
        own: list[Any] = [None]
        dist.scatter_object_list(own, list(values) if self.rank == 0 else None, src=0, group=self.group)
        return own[0]  # type: ignore[no-any-return]

    def from_rank_0(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0, on every rank, however long it takes; an error on rank 0 ends all ranks."""
        made: list[Any] = [make() if self.rank == 0 else None]
        if self.size > 1:
            dist.broadcast_object_list(made, src=0, group=self.group)
        return made[0]  # type: ignore[no-any-return]
