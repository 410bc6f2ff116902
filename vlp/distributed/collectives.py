"""The few collectives the losses use, under one name each for every torch from 2.6 on."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vlp.losses._engine.peers import Pending

T = TypeVar("T")
Group = dist.ProcessGroup | None
"""None: all ranks."""

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def all_gather(rows: Tensor, group: Group, size: int) -> Pending:
    """[size * b, ...]: everyone's rows in order of group rank, under way (all ranks of the group take part)."""
    rows = rows.detach().contiguous()
    out = rows.new_empty(size * rows.shape[0], *rows.shape[1:])
    return arrival(_all_gather(out, rows, group=group, async_op=True), out)


def reduce_scatter(rows: Tensor, group: Group, size: int) -> Pending:
    """[b, ...]: the sum over ranks of my slice of [size * b, ...], under way (all ranks of the group take part)."""
    out = rows.new_empty(rows.shape[0] // size, *rows.shape[1:])
    return arrival(_reduce_scatter(out, rows.contiguous(), group=group, async_op=True), out)


def arrival(work: dist.Work | None, out: Tensor) -> Pending:
    """`out` once `work` is done, which is let go then: it may hold a copy of what was sent."""
    works = [] if work is None else [work]

    def wait() -> Tensor:
        while works:
            works.pop().wait()
        return out

    return wait


def all_reduce(values: Tensor, group: Group, *, largest: bool = False) -> Tensor:
    """The elementwise sum (or maximum) over ranks (all ranks of the group take part)."""
    values = values.clone()
    dist.all_reduce(values, op=dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=group)
    return values


def all_to_all(rows: Tensor, received: int, sent: list[int], taken: list[int]) -> Tensor:
    """[received, ...]: `sent[q]` of my rows go to rank q, `taken[q]` come from it (all ranks take part)."""
    out = rows.new_empty(received, *rows.shape[1:])
    dist.all_to_all_single(out, rows.contiguous(), taken, sent)
    return out


def send_around(sent: Tensor, *, to: int, source: int, tag: int) -> Pending:
    """What rank `source` sends while I send to rank `to`, under way (all ranks of the ring take part)."""
    sent, out = sent.contiguous(), torch.empty_like(sent)
    going = [dist.P2POp(dist.isend, sent, to, tag=tag), dist.P2POp(dist.irecv, out, source, tag=tag)]
    works = dist.batch_isend_irecv(going)

    def wait() -> Tensor:
        for work in works:
            work.wait()
        going.clear()  # until now this kept `sent` alive
        return out

    return wait


def gather_objects(value: T, group: Group = None) -> list[T]:
    """`value` of every rank, in order of rank; anything that can be pickled (all ranks of the group take part)."""
    every: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, value, group=group)
    return every
