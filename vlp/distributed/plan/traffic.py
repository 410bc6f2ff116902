"""The bytes that a piece of a step really sends: every collective is counted where torch dispatches it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Traffic(TorchDispatchMode):
    """Counts the bytes this rank receives while active, by collective; an all-reduce of M counts 2 (n - 1) / n M."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.received: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Bytes received so far."""
        return sum(self.received.values())

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        name = op._schema.name
        if name.startswith("c10d::"):
            self.received[name.removeprefix("c10d::").strip("_")] += received(name.removeprefix("c10d::"), args)
        return result


def received(name: str, args: Any) -> int:
    """Bytes a rank receives in one collective, by the ring algorithms that gloo and nccl use for large tensors.

    Raises NotImplementedError for a collective that is not in this list.
    """
    size = next(n for n in (group_size(a) for a in args) if n)
    if name in ("_allgather_base_", "_reduce_scatter_base_"):
        return max(weight(args[0]), weight(args[1])) * (size - 1) // size
    if name in ("allgather_", "reduce_scatter_"):
        return max(weight(args[0]), weight(args[1])) * (size - 1) // size
    if name == "allreduce_":
        return 2 * weight(args[0]) * (size - 1) // size
    if name == "alltoall_":
        return weight(args[0]) * (size - 1) // size
    if name == "alltoall_base_":
        rows, splits = args[0], args[3]
        own = splits[dist.get_rank()] if splits else rows.shape[0] // size
        return weight(rows) // rows.shape[0] * (rows.shape[0] - own) if rows.shape[0] else 0
    if name == "broadcast_":
        return weight(args[0])
    if name == "scatter_":  # outputs, inputs, group, root: the root keeps its own part
        return 0 if args[3] == dist.get_rank() else weight(args[0])
    if name == "recv_":
        return weight(args[0])
    if name in ("send", "barrier"):
        return 0
    raise NotImplementedError(f"Traffic does not know the collective {name}")


def weight(tensors: Any) -> int:
    """Bytes of a tensor, or of a list of them, however deep."""
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(weight(t) for t in tensors) if isinstance(tensors, list | tuple) else 0


def group_size(argument: Any) -> int:
    """Number of ranks of a process group that travels as a script object; 0 for anything else."""
    if not isinstance(argument, torch.ScriptObject):
        return 0
    try:
        return int(dist.ProcessGroup.unbox(argument).size())
    except (RuntimeError, TypeError):
        return 0
