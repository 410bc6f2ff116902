"""What the ranks of a test world do with a table: the same reads and writes as one process does with a dictionary."""

import torch

from vlp.batch import Batch
from vlp.distributed.plan.traffic import Traffic
from vlp.distributed.sharded import sharded
from vlp.losses.history import History
from vlp.training.table import Kept, Table

STEPS, SAMPLES, PAIRS = 5, 40, 6
FIRST = torch.tensor([0.5, -1.0])


def batches(size):
    """(numbers [B], what is kept of them [B, 2]) of each step, samples twice in some."""
    generator = torch.Generator().manual_seed(4)
    for _ in range(STEPS):
        numbers = torch.randint(0, SAMPLES, (PAIRS * size,), generator=generator)
        yield numbers, torch.randn(PAIRS * size, 2, generator=generator)


def filled(world, batches, start=None):
    """(rows read at each step by this rank, the whole table at the end, its bytes, those that collectives moved)."""
    table = Table(world, FIRST)
    if start is not None:
        table.take(torch.tensor(start))
    read = []
    with Traffic() as traffic:
        for numbers, values in batches:
            b = len(numbers) // world.size
            mine = slice(b * world.rank, b * (world.rank + 1))
            asked = table.asked(numbers[mine])
            read.append(table.read(asked).tolist())
            table.write(asked, values[mine])
        moved = traffic.total
    return read, table.whole().tolist(), table.received, moved


def everything(world, other):
    """A table that begins empty, and one that goes on from where `other` left it."""
    whole = list(batches(12 // PAIRS))
    return filled(world, whole), filled(world, whole[2:], other)[:2]


def companion(world):
    """What the companion keeps of a step that is taken, and not of one that is refused."""
    objective = sharded(History(), world)
    (kept,) = Kept.of(objective)
    nothing = torch.zeros(2)
    losses = torch.tensor([1.0 + world.rank, 3.0 + 2 * world.rank])
    for taken in (False, True):
        kept.beside(Batch(nothing, nothing, ("", ""), numbers=torch.tensor([2 * world.rank, 7])), None)
        for caption in range(2):
            objective.keep("history_loss", losses + 2 * caption)
        if taken:
            kept.taken()
    return {name: values.tolist() for name, values in kept.state_dict().items()}
