"""The numbers that an objective keeps from step to step: of each sample of the stream, and of the run.

Row n of the table lies on rank n modulo the number of ranks. A step asks the ranks that have them for the rows of its
batch, and sends them back changed, in three all-to-alls. A checkpoint has each column whole, in the order of samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlp.batch import Batch, Embeddings
from vlp.distributed.collectives import all_gather, all_reduce, all_to_all
from vlp.distributed.sharded import Sharded
from vlp.distributed.world import World
from vlp.errors import UserError


@dataclass
class Table:
    """M numbers of each of S samples: S / N rows on each of N ranks. It grows as samples come.

    A sample that occurs twice in a batch is given the same numbers twice; what its last occurrence keeps counts, in the
    order of the batch over all ranks, which does not depend on their number.
    """

    world: World
    first: Tensor  # [M] what each number begins with
    rows: Tensor = field(init=False)  # [s, M] of the samples rank, rank + N, rank + 2 N ...
    used: int = 0  # rows up to the last sample that was asked for
    received: float = 0.0  # bytes that came from other ranks

    def __post_init__(self) -> None:
        """Nothing is kept yet."""
        self.rows = self.first.new_empty(0, len(self.first))

    def asked(self, numbers: Tensor) -> Asked:
        """Who has the rows of these samples [b], and which rows others ask this rank for (all ranks take part)."""
        size = self.world.size
        owner = numbers % size
        order = owner.argsort(stable=True)
        sent = torch.bincount(owner, minlength=size)
        if size == 1:
            taken, wanted = sent, numbers
        else:
            taken = all_to_all(sent, size, [1] * size, [1] * size)
            counts = sent.tolist(), taken.tolist()
            wanted = all_to_all(numbers[order], sum(counts[1]), *counts)
            self.received += 8 * (size - 1) + 8 * self.others(counts[1])
        here = wanted // size
        self.used = max(self.used, int(here.max()) + 1 if len(here) else 0)
        self.grow(self.used)
        return Asked(order, sent.tolist(), taken.tolist(), here)

    def read(self, asked: Asked) -> Tensor:
        """[b, M] the numbers of the samples (all ranks take part)."""
        found = self.rows[asked.here]
        if self.world.size > 1:
            found = all_to_all(found, len(asked.order), asked.taken, asked.sent)
            self.received += self.row_bytes * self.others(asked.sent)
        return torch.empty_like(found).index_copy_(0, asked.order, found)

    def write(self, asked: Asked, values: Tensor) -> None:
        """Keep other numbers [b, M] of the samples (all ranks take part)."""
        values = values[asked.order]
        if self.world.size > 1:
            values = all_to_all(values, len(asked.here), asked.sent, asked.taken)
            self.received += self.row_bytes * self.others(asked.taken)
        last = last_of_each(asked.here)
        self.rows[asked.here[last]] = values[last]

    def grow(self, rows: int) -> None:
        """Have `rows` rows at least; they at least double, so that growing costs little."""
        if rows > len(self.rows):
            new = self.first.expand(max(rows, 2 * len(self.rows)) - len(self.rows), -1)
            self.rows = torch.cat([self.rows, new])

    def whole(self) -> Tensor:
        """[S, M] the numbers of all samples up to the last that was asked for (all ranks take part)."""
        size, rank = self.world.size, self.world.rank
        if size == 1:
            return self.rows[: self.used]
        last = torch.tensor([(self.used - 1) * size + rank if self.used else -1], device=self.rows.device)
        samples = int(all_reduce(last, None, largest=True)) + 1
        each = -(-samples // size)
        self.grow(each)
        every = all_gather(self.rows[:each], None, size)()
        return every.view(size, each, -1).transpose(0, 1).flatten(0, 1)[:samples]

    def take(self, whole: Tensor) -> None:
        """Go on from what `whole` gave on any number of ranks."""
        self.rows = whole[self.world.rank :: self.world.size].to(self.first).contiguous()
        self.used = len(self.rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return len(self.first) * self.first.element_size()

    def others(self, counts: list[int]) -> int:
        """Their sum, this rank's own left out."""
        return sum(counts) - counts[self.world.rank]


@dataclass(frozen=True)
class Asked:
    """Where the samples of a batch are kept."""

    order: Tensor  # [b] the batch, by the rank that keeps them
    sent: list[int]  # how many each rank keeps
    taken: list[int]  # how many each rank asks this one for
    here: Tensor  # [sum of taken] which rows


def last_of_each(rows: Tensor) -> Tensor:
    """[k] where each of the values in rows [n] occurs last.

    >>> last_of_each(torch.tensor([5, 7, 5, 2])).tolist()
    [3, 2, 1]
    """
    ordered, order = rows.sort(stable=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return order[last]


class Kept:
    """The companion of an objective that keeps numbers: given before each step, and kept once it is taken."""

    name = "kept"

    def __init__(self, objective: Sharded, dtype: torch.dtype = torch.float32) -> None:
        self.objective, world = objective, objective.world
        samples, run = objective.objective.per_sample, objective.objective.per_run
        self.names = tuple(samples)
        self.table = Table(world, torch.tensor(list(samples.values()), dtype=dtype, device=world.device))
        self.run = {name: torch.tensor(first, dtype=dtype, device=world.device) for name, first in run.items()}
        self.asked: Asked | None = None

    @classmethod
    def of(cls, objective: Sharded, dtype: torch.dtype = torch.float32) -> tuple[Kept, ...]:
        """The one that the objective asks for, if it keeps anything; numbers are kept in `dtype`."""
        keeps = objective.objective.per_sample or objective.objective.per_run
        return (cls(objective, dtype),) if keeps else ()

    def beside(self, batch: Batch, e: Embeddings) -> Embeddings:
        """The embeddings as they are: the objective is given its numbers (all ranks take part).

        Raises UserError where numbers of samples are kept and the batch does not say which samples they are.
        """
        numbers = dict(self.run)
        if self.names:
            if batch.numbers is None:
                raise UserError(
                    f"loss {type(self.objective.objective).__name__} keeps numbers of each sample, but the data do not "
                    "number their samples; read shards that can be listed beforehand, or choose another loss.name"
                )
            self.asked = self.table.asked(batch.numbers)
            numbers |= dict(zip(self.names, self.table.read(self.asked).unbind(1), strict=True))
        self.objective.begin(numbers)
        self.count()
        return e

    def taken(self) -> None:
        """Keep what the objective kept of this step (all ranks take part)."""
        kept, before = self.objective.kept, self.objective.numbers
        self.run = {name: kept.get(name, value).to(value) for name, value in self.run.items()}
        if self.asked is not None and kept.keys() & set(self.names):
            columns = [kept.get(name, before[name]).to(self.table.first) for name in self.names]
            self.table.write(self.asked, torch.stack(columns, 1))
            self.count()
        self.asked = None

    def count(self) -> None:
        """Let the table's bytes be among those that the objective received."""
        self.objective.received, self.table.received = self.objective.received + self.table.received, 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """Each number by its name: run.NAME [], sample.NAME [S] (all ranks take part)."""
        columns = self.table.whole().unbind(1) if self.names else ()
        samples = {f"sample.{name}": column.contiguous() for name, column in zip(self.names, columns, strict=True)}
        return {f"run.{name}": value for name, value in self.run.items()} | samples

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there, on any number of ranks."""
        self.run = {name: tensors[f"run.{name}"].to(value) for name, value in self.run.items()}
        if self.names:
            self.table.take(torch.stack([tensors[f"sample.{name}"] for name in self.names], 1))
