"""One model on any number of processes, one way a file: what `training.parallel` names."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from vlp.distributed.collectives import gather_objects
from vlp.distributed.world import World

Kind = Literal["ddp", "fsdp2", "hybrid"]


class Parallel:
    """How weights, gradients and optimizer state lie on the ranks, and the few things that all ranks do together.

    As it stands it serves one process. `half` is what the towers multiply in, None for the weights' own precision.
    """

    texts_sync: ClassVar[bool] = False
    """whether the cached step syncs the text tower's gradients apart, before those of the image tower"""

    def __init__(self, world: World, half: torch.dtype | None = None, *, chunked: bool = False) -> None:
        self.world, self.half = world, half
        if world.size > 1:  # accelerate reads torchrun's variables, which srun alone does not set
            for key, value in (
                ("RANK", world.rank),
                ("WORLD_SIZE", world.size),
                ("LOCAL_RANK", world.local_rank),
                ("LOCAL_WORLD_SIZE", world.local_size),
            ):
                os.environ.setdefault(key, str(value))
        AcceleratorState._reset_state()  # an earlier run in this process is not this run
        self.accelerator = Accelerator(
            cpu=world.device.type == "cpu",
            mixed_precision="no",  # autocast is the step's (forwards.py): accelerate has no fp16 on CPUs
            kwargs_handlers=[
                # the cached step syncs in a backward of the image tower alone
                DistributedDataParallelKwargs(gradient_as_bucket_view=True, find_unused_parameters=chunked)
            ],
        )

    @property
    def shards(self) -> int:
        """How many ranks share one copy of weights, gradients and optimizer state."""
        return 1

    def place(self, module: nn.Module, *copies: nn.Module) -> None:
        """Lay the weights out on the ranks, in place, before the optimizer takes them (all ranks participate).

        `copies` of the model, such as its average, are laid out alike.
        """

    def wrap(self, module: nn.Module) -> nn.Module:
        """What a step calls in place of `module`, once optimizer and average have been built (all participate)."""
        return module

    def release(self) -> None:
        """Let go of what `wrap` made."""
        self.accelerator.free_memory()

    def unsynced(self, model: nn.Module) -> AbstractContextManager[object]:
        """A context in which a backward of what `wrap` gave leaves gradients unsynchronised."""
        return nullcontext()

    def settle(self, module: nn.Module) -> None:
        """Synchronise the gradients that backwards leave out; once a step (all ranks participate)."""

    def whole(self, module: nn.Module) -> nn.Module:
        """`module` or a copy, with all its weights on this rank and no hooks: for evaluation (all participate)."""
        return module

    def number(self, value: Tensor) -> float:
        """A number of all ranks' weights, such as a norm (all ranks participate)."""
        return float(value)

    def any_rank(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank (all ranks participate)."""
        if self.world.size == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.int32, device=self.world.device)
        return [bool(v) for v in self.accelerator.reduce(votes, reduction="sum").tolist()]

    def everyones(self, value: Any) -> list[Any]:
        """`value` of every rank, in order of rank (all ranks participate)."""
        return [value] if self.world.size == 1 else gather_objects(value)


def parallel(kind: Kind, world: World, half: torch.dtype | None, *, chunked: bool) -> Parallel:
    """What `training.parallel` names; one process needs none of them (all ranks participate)."""
    if world.size == 1:
        return Parallel(world, half)
    made: Parallel = import_module(f"{__name__}.{kind}").Chosen(world, half, chunked=chunked)
    return made
