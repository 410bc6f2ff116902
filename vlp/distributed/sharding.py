"""Weights that are shared out among ranks (FSDP2): every rank keeps a part of each, and gathers what it needs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.modules.batchnorm import _BatchNorm

from vlp.distributed.collectives import all_reduce
from vlp.distributed.mesh import Mesh
from vlp.distributed.world import World
from vlp.errors import UserError


def mesh_of(world: World, *, hybrid: bool) -> DeviceMesh:
    """All ranks in one row; `hybrid`: a row for each node, so that weights are gathered inside nodes only.

    The first call makes the process groups (all ranks take part). Raises UserError for nodes of unequal size.
    """
    kind = world.device.type
    if not hybrid:
        return DeviceMesh(kind, torch.arange(world.size), mesh_dim_names=("shard",))
    ranks = sorted({world.nodes.count(node) for node in world.nodes})
    if len(ranks) > 1:
        raise UserError(
            f"training.parallel is hybrid, but this run's nodes have {ranks[0]} to {ranks[-1]} ranks; start equally "
            "many on every node, or set training.parallel to fsdp2"
        )
    rows = Mesh.of(world.nodes, world.size // ranks[0], ranks[0]).ranks
    return DeviceMesh(kind, torch.tensor(rows), mesh_dim_names=("replicate", "shard"))


def shard(
    module: nn.Module,
    units: Iterable[nn.Module],
    mesh: DeviceMesh,
    half: torch.dtype | None,
    *,
    exact: Iterable[nn.Module] = (),
) -> None:
    """Share out the weights of `module` in place, gathered one of `units` (inner ones first) at a time.

    Those of `exact` are units too, and travel as they are.
    Numbers without axes, such as the logit scale, stay whole on every rank; `average_numbers` is for their gradients.
    With `half` weights travel in it and blocks take their inputs in it, while gradients are summed in the weights' own
    precision; batch norms stay in theirs. All ranks take part.
    """
    for weight in module.parameters():
        weight.data = weight.data.contiguous()  # FSDP2 takes no channels last
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=half and torch.float32)
    if half is not None:
        for norm in [part for part in module.modules() if isinstance(part, _BatchNorm)]:
            fully_shard(norm, mesh=mesh)
    for unit in exact:
        fully_shard(unit, mesh=mesh, ignored_params=set(numbers(unit)))
    for unit in [*units, module]:
        fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=set(numbers(unit)))


def numbers(module: nn.Module) -> list[nn.Parameter]:
    """The parameters without axes, which FSDP2 does not shard."""
    return [p for p in module.parameters() if p.ndim == 0]


def sync_gradients(module: nn.Module, wanted: bool) -> None:
    """Whether the backwards to come send gradients to the ranks that keep their weights, or only add them up."""
    assert isinstance(module, FSDPModule)
    module.set_requires_gradient_sync(wanted)


@torch.no_grad()
def average_numbers(module: nn.Module) -> None:
    """Make the gradients of `numbers` the mean over all ranks, in one all-reduce (all ranks take part)."""
    gradients = [p.grad for p in numbers(module) if p.grad is not None]
    if not gradients:
        return
    means = all_reduce(torch.stack(gradients), None) / dist.get_world_size()
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean)


@torch.no_grad()
def start_alike(module: nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0 (all ranks take part)."""
    for tensor in chain(module.parameters(), module.buffers()):
        dist.broadcast(tensor.detach(), 0)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which this rank keeps a part, else the tensor (the ranks that share it take part)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of `tensor`, shared out as `like` is; `tensor` itself where that is whole."""
    if not isinstance(like, DTensor):
        return tensor
    mesh = like.device_mesh
    here = DTensor.from_local(tensor.to(like.device).contiguous(), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return here.redistribute(placements=like.placements).clone()  # a copy: the whole may go


@torch.no_grad()
def fill(copy: nn.Module, module: nn.Module) -> None:
    """Give `copy`, which is whole, the weights and buffers of `module` (all ranks take part)."""
    own, theirs = (chain(m.parameters(), m.buffers()) for m in (copy, module))
    for here, there in zip(own, theirs, strict=True):
        here.copy_(whole(there.detach()))
