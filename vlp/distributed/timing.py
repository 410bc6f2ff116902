"""How long collectives take: the time in which a rank waits for its wires and for other ranks."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlp.distributed.collectives import gather_objects
from vlp.distributed.world import World


class Collectives(TorchDispatchMode):
    """Adds up the seconds of every collective while active; each is waited for where it is called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = 0.0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not op._schema.name.startswith("c10d::"):
            return op(*args, **(kwargs or {}))
        began = time.perf_counter()
        result = op(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.ScriptObject):
                dist.Work.unbox(leaf).wait()
        self.seconds += time.perf_counter() - began
        return result


def all_reduce_seconds(world: World, size: int, repeats: int = 3) -> float:
    """Seconds of an all-reduce of `size` bytes, float32, at best of some (all ranks participate)."""
    if world.size == 1:
        return 0.0
    tensor = torch.zeros(max(1, size // 4), device=world.device)
    best = float("inf")
    for _ in range(repeats + 1):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(tensor)
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
        best = min(best, time.perf_counter() - began)
    return best


def slowest(world: World, seconds: dict[str, float]) -> dict[str, float]:
    """For each name the largest of all ranks' numbers (all ranks participate)."""
    if world.size == 1:
        return seconds
    everyone = gather_objects(seconds)
    return {name: max(one[name] for one in everyone) for name in seconds}
