"""The peak memory of one rank of thousands, on one machine: fake process group, fake tensors, a count of what lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # before any process group: it remembers the one that is there when it loads
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlp.batch import Embeddings
from vlp.distributed.sharded import Sharded
from vlp.distributed.strategies.grid import crossing
from vlp.distributed.strategies.parse import read
from vlp.distributed.world import World
from vlp.losses import Loss
from vlp.losses._engine.contrast import differentiable


class Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that tensors made while it is active keep alive; what was there before does not count."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: dict[int, int] = {}  # storages alive, with the bytes they count for

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self.meet(tensor.untyped_storage(), 0)
        result = op(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and self.counts(tensor):
                self.meet(tensor.untyped_storage(), tensor.untyped_storage().nbytes())
        return result

    def counts(self, tensor: Tensor) -> bool:
        """Whether a tensor belongs to what is measured; all do, unless a subclass knows better."""
        return True

    def meet(self, storage: torch.UntypedStorage, size: int) -> None:
        """Counts a storage with `size` bytes until it is freed, once."""
        key = storage._cdata
        if key in self.known:
            return
        self.known[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, key)

    def forget(self, key: int) -> None:
        """Stops counting a storage."""
        self.now -= self.known.pop(key, 0)


@contextmanager
def fake_world(size: int, per_node: int) -> Iterator[World]:
    """Rank 0 of a world whose collectives return at once; no process group may exist outside."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        nodes = tuple(rank // per_node for rank in range(size))
        yield World(0, size, 0, per_node, torch.device("cpu"), nodes)
    finally:
        dist.destroy_process_group()


def peak_of(
    loss: Callable[[Embeddings], Tensor],
    *,
    pairs: int,
    width: int,
    dtype: torch.dtype,
    living: Callable[[], Living] = Living,
) -> int:
    """Bytes alive at the peak of value and gradient, beyond this rank's own embeddings [pairs, width]."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        image, text = (torch.empty(pairs, width, dtype=dtype, requires_grad=True) for _ in range(2))
        scale, bias = (torch.empty((), requires_grad=True) for _ in range(2))
        with living() as watch:
            loss(Embeddings(image, text, scale, bias)).backward()  # type: ignore[no-untyped-call]
    return int(watch.peak)


def simulated_peak(loss: Loss, negatives: str, *, size: int, per_node: int, **shape: Any) -> int:
    """Bytes at the peak of one rank's sharded loss, `size` ranks; `shape` goes to `peak_of`."""
    with fake_world(size, per_node) as world:
        strategy = read(negatives, size=size, per_node=per_node)
        objective = Sharded(loss, world, strategy, *crossing(world, strategy))
        # without `agree`, which reads numbers that fake tensors do not have
        evaluate = partial(objective.evaluate, loss, texts=None)
        return peak_of(lambda e: differentiable(evaluate, e).value, **shape)
