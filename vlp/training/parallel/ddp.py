"""DDP: every rank has all weights, and gradients are averaged."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import nn

from vlp.distributed.batch_norm import share_statistics
from vlp.training.parallel import Parallel


class Chosen(Parallel):
    """accelerate's DDP, which gives every rank the weights of rank 0."""

    def place(self, module: nn.Module, *copies: nn.Module) -> None:
        """Batch norms see the pictures of all ranks; weights stay whole."""
        share_statistics(module, self.world.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` inside DDP."""
        wrapped: nn.Module = self.accelerator.prepare_model(module)
        return wrapped

    def unsynced(self, model: nn.Module) -> AbstractContextManager[object]:
        """DDP's no_sync."""
        context: AbstractContextManager[object] = self.accelerator.no_sync(model)
        return context
