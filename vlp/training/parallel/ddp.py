"""One model on any number of processes, through accelerate and DDP; and what ranks agree on."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import nn

from vlp.distributed.batch_norm import share_statistics
from vlp.distributed.world import World
from vlp.training.parallel.precision import Precision, resolve


class Parallel:
    """accelerate's wrapping of the model, and the few things that all ranks must do together."""

    def __init__(self, world: World, precision: Precision, *, chunked: bool = False) -> None:
        self.world = world
        if world.size > 1:  # accelerate reads torchrun's variables, which srun alone does not set
            for key, value in (
                ("RANK", world.rank),
                ("WORLD_SIZE", world.size),
                ("LOCAL_RANK", world.local_rank),
                ("LOCAL_WORLD_SIZE", world.local_size),
            ):
                os.environ.setdefault(key, str(value))
        AcceleratorState._reset_state()  # the precision of an earlier run in this process is not this run's
        self.accelerator = Accelerator(
            cpu=world.device.type == "cpu",
            mixed_precision="bf16" if resolve(precision, world.device) == "bf16" else "no",
            kwargs_handlers=[
                # the cached step syncs in a backward of the image tower alone
                DistributedDataParallelKwargs(gradient_as_bucket_view=True, find_unused_parameters=chunked)
            ],
        )

    def prepare(self, model: nn.Module) -> nn.Module:
        """`model` with mixed precision in its forward, inside DDP if there are several ranks (all participate)."""
        if self.world.size > 1:
            model = share_statistics(model, self.world.device)
        wrapped: nn.Module = self.accelerator.prepare_model(model)
        return wrapped

    def release(self, model: nn.Module) -> None:
        """Take the mixed precision out of the forward of `model` again."""
        self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        vars(model).pop("forward", None)  # accelerate leaves the class's own there, bound
        self.accelerator.free_memory()

    def unsynced(self, model: nn.Module) -> AbstractContextManager[object]:
        """A context in which a backward leaves gradients unsynchronised."""
        context: AbstractContextManager[object] = self.accelerator.no_sync(model)
        return context

    def any_rank(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank (all ranks participate)."""
        if self.world.size == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.int32, device=self.world.device)
        return [bool(v) for v in self.accelerator.reduce(votes, reduction="sum").tolist()]

    def everyones(self, value: Any) -> list[Any]:
        """`value` of every rank, in order of rank (all ranks participate)."""
        return [value] if self.world.size == 1 else list(gather_object([value]))
