"""FSDP2: weights, gradients, optimizer state and average are shared out among all ranks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import ClassVar

import torch
from torch import Tensor, nn

from vlp.distributed import sharding
from vlp.distributed.batch_norm import share_statistics
from vlp.distributed.world import World
from vlp.training.parallel import Parallel
from vlp.training.towers import learnt, units


class Chosen(Parallel):
    """torch's fully_shard, by the blocks of the towers.

    Weights travel in `half` where there is one, and what passes between blocks is rounded to it too; inside a block
    autocast decides, as under DDP. Gradients are summed in float32. Evaluation gets a whole copy, so that ranks may
    embed different numbers of batches.
    """

    hybrid: ClassVar[bool] = False
    texts_sync: ClassVar[bool] = True  # only a backward through a tower sends its gradients on

    def __init__(self, world: World, half: torch.dtype | None = None, *, chunked: bool = False) -> None:
        super().__init__(world, half, chunked=chunked)
        self.mesh = sharding.mesh_of(world, hybrid=self.hybrid)
        self.skeleton = nn.Module()  # the model without weights

    @property
    def shards(self) -> int:
        """The ranks of the last axis of the mesh."""
        return int(self.mesh.size(-1))

    def place(self, module: nn.Module, *copies: nn.Module) -> None:
        """Share out `module` and its copies alike."""
        self.skeleton = deepcopy(module).to("meta")
        # torch warns of embeddings that are views, which an operation in place would part from its hooks: there is none
        warnings.filterwarnings(
            "ignore", message=rf"FSDP2-wrapped module \(FSDP{type(module).__name__}\) returned a view"
        )
        share_statistics(module, self.world.device)
        sharding.start_alike(module)
        for each in (module, *copies):
            sharding.shard(each, units(each), self.mesh, self.half, exact=learnt(each))

    def unsynced(self, model: nn.Module) -> AbstractContextManager[object]:
        """Whole gradients add up on each rank until the backward that syncs."""

        @contextmanager
        def context() -> Iterator[None]:
            sharding.sync_gradients(model, wanted=False)
            yield
            sharding.sync_gradients(model, wanted=True)

        return context()

    def settle(self, module: nn.Module) -> None:
        """Average the gradients of the logit scale and bias, which FSDP2 leaves out."""
        sharding.average_numbers(module)

    def whole(self, module: nn.Module) -> nn.Module:
        """A copy of its own for each call."""
        copy = deepcopy(self.skeleton).to_empty(device=self.world.device)
        sharding.fill(copy, module)
        return copy

    def number(self, value: Tensor) -> float:
        """The same on every rank."""
        return float(sharding.whole(value))
