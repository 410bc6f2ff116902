"""Which parts of a store fall to which process: nobody talks, whoever is done early helps the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vlp.errors import UserError


class Share(NamedTuple):
    """A process among those that write one store."""

    rank: int = 0
    size: int = 1

    def check(self) -> None:
        """Raise UserError for a rank that cannot be."""
        if not 0 <= self.rank < self.size:
            raise UserError(f"--rank is {self.rank} and --size {self.size}, but ranks are numbers from 0 to size - 1")

    def own(self, parts: int) -> range:
        """The parts, of so many, that are this rank's: every size-th."""
        return range(self.rank, parts, self.size)

    def others(self, parts: int) -> Iterator[int]:
        """The parts of the other ranks, the last one first: each of them begins with its first."""
        return (part for part in reversed(range(parts)) if part % self.size != self.rank)


def share_of(env: Mapping[str, str]) -> Share:
    """What torchrun, srun and a Slurm array make of a process; with both, every task of the array has its ranks.

    Raises UserError for an array with gaps, in which no task knows its place.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, size = int(env["RANK"]), int(env["WORLD_SIZE"])
    else:  # SLURM_NTASKS is in a batch script too, which is one process: only srun sets the step's
        size = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
        rank = int(env.get("SLURM_PROCID", "0")) if size > 1 else 0
    if "SLURM_ARRAY_TASK_ID" not in env:
        return Share(rank, size)
    task, count, first, last, step = (
        int(env.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", "0"), ("COUNT", "1"), ("MIN", "0"), ("MAX", "0"), ("STEP", "1"))
    )
    if count == 1:
        return Share(rank, size)
    if (last - first) // step + 1 != count:
        raise UserError(
            f"the Slurm array has {count} tasks between {first} and {last}, not every {step}th of them; "
            f"give an array without gaps, such as --array 0-{count - 1}, or --rank and --size"
        )
    return Share((task - first) // step * size + rank, count * size)


def device_of(device: str, env: Mapping[str, str]) -> str:
    """The device of a process: of several on one machine each has its own GPU, as far as it sees several."""
    local = int(env.get("LOCAL_RANK", env.get("SLURM_LOCALID", "0")))
    if device != "cuda" or not local:
        return device
    import torch

    return f"cuda:{local % max(1, torch.cuda.device_count())}"
