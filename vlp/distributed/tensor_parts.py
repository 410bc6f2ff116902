"""Which rank writes which part of a run's tensors, and who reads which: torch's distributed checkpoint plans it.

A tensor that all ranks have (DDP) is written by one of them, a DTensor (FSDP2) by each rank its own part; ranks share
the bytes evenly. Reading needs no rank of those that wrote: a part is copied into whatever part a rank has now.

What is written where is a table of plain values, so that it can be kept as JSON: torch's own record is a pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem, WriteItem

from vlp.distributed.background import BackgroundGroup

Table = dict[str, dict[str, Any]]
"""name of a tensor -> {"dtype": "float32", "shape": [...], "parts": [[rank that wrote it, offsets, shape], ...]}"""
Slice = tuple[slice, ...]
Read = Callable[[int, str, Slice], Tensor]
"""A part of what a rank wrote: (rank, name of the part, which slice of it) -> a tensor on the CPU."""


def part_name(tensor: str, offsets: tuple[int, ...] | list[int]) -> str:
    """The name of a tensor's part that begins at `offsets`.

    >>> part_name("model.text.weight", [8, 0])
    'model.text.weight@8,0'
    """
    return f"{tensor}@{','.join(map(str, offsets))}"


@dataclass
class PartsPlan:
    """Who writes what; made once, and again when tensors come or go."""

    group: BackgroundGroup
    items: list[WriteItem] = field(default_factory=list)
    table: Table = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    copies: dict[str, Tensor] = field(default_factory=dict)

    def copied(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Table]:
        """This rank's parts, by name, as copies in memory of the CPU that stay the same until the next call.

        The table has the parts of all ranks; it is given on rank 0 alone. All ranks take part.
        """
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner(dict(tensors), is_coordinator=self.group.rank == 0)
        facts = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
        if facts != self.known:  # the same on every rank, as is whether a tensor is there
            self._plan(planner)
            self.known, self.copies = facts, {}
        for item in self.items:
            self._copy(part_name(item.index.fqn, tuple(item.index.offset or ())), planner.resolve_data(item))
        if any(t.is_cuda for t in tensors.values()):
            torch.cuda.synchronize()
        return self.copies, self.table

    def _plan(self, planner: DefaultSavePlanner) -> None:
        every = self.group.at_rank_0(planner.create_local_plan())
        plans, metadata = planner.create_global_plan(every) if self.group.rank == 0 else ([], Metadata({}))
        self.table = {}
        for rank, plan in enumerate(plans):
            for item in plan.items:
                kept = metadata.state_dict_metadata[item.index.fqn]
                assert isinstance(kept, TensorStorageMetadata)
                row = self.table.setdefault(item.index.fqn, as_row(kept))
                assert item.tensor_data is not None
                chunk = item.tensor_data.chunk
                row["parts"].append([rank, list(chunk.offsets), list(chunk.sizes)])
        self.items = self.group.each_its_own(plans).items

    def _copy(self, name: str, tensor: Any) -> None:
        own = tensor.detach()
        if name not in self.copies:
            self.copies[name] = torch.empty(own.shape, dtype=own.dtype, pin_memory=own.is_cuda)
        self.copies[name].copy_(own, non_blocking=True)


def as_row(kept: TensorStorageMetadata) -> dict[str, Any]:
    """The line of a tensor in a table, without its parts."""
    return {"dtype": str(kept.properties.dtype).removeprefix("torch."), "shape": list(kept.size), "parts": []}


def dtype_of(row: Mapping[str, Any]) -> torch.dtype:
    """The type of a tensor in a table. Raises ValueError where it is none."""
    dtype = getattr(torch, str(row["dtype"]), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{row['dtype']} is no type of a tensor")
    return dtype


def whole_table(tensors: Mapping[str, Tensor]) -> Table:
    """The table of tensors that one rank wrote, each as a whole."""
    return {
        name: {
            "dtype": str(t.dtype).removeprefix("torch."),
            "shape": list(t.shape),
            "parts": [[0, [0] * t.ndim, list(t.shape)]],
        }
        for name, t in tensors.items()
    }


class Reading:
    """What this rank reads of the tensors of a table, into `tensors` (no other rank takes part)."""

    def __init__(self, tensors: Mapping[str, Tensor], table: Table) -> None:
        """Raises RuntimeError or ValueError where a tensor is missing in the table, or has another shape there."""
        self.tensors, self.table = tensors, table
        self.planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.planner.set_up_planner(dict(tensors), metadata(table), is_coordinator=False)
        self.items: list[ReadItem] = self.planner.create_local_plan().items

    def part(self, item: ReadItem) -> tuple[int, str]:
        """(rank that wrote it, its name) of the part that an item reads."""
        at = item.storage_index
        rank, offsets, _ = next(p for p in self.table[at.fqn]["parts"] if p[1] == list(at.offset or ()))
        return int(rank), part_name(at.fqn, offsets)

    @property
    def ranks(self) -> list[int]:
        """Whose files are needed."""
        return sorted({self.part(item)[0] for item in self.items})

    @torch.no_grad()
    def fill(self, read: Read) -> None:
        """Copy everything into the tensors."""
        for item in self.items:
            rank, name = self.part(item)
            inside = tuple(slice(a, a + n) for a, n in zip(item.storage_offsets, item.lengths, strict=True))
            target: Tensor = self.planner.resolve_tensor(item)
            target.copy_(read(rank, name, inside))


def metadata(table: Table) -> Metadata:
    """A table as torch's planner knows it."""
    rows = {}
    for name, row in table.items():
        parts = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(shape)) for _, offsets, shape in row["parts"]]
        rows[name] = TensorStorageMetadata(TensorProperties(dtype_of(row)), torch.Size(row["shape"]), parts)
    return Metadata(dict(rows))
