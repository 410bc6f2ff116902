"""What a run prints before its first step, so that a wrong configuration is seen at once."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vlp.distributed.strategies.strategy import Strategy
from vlp.distributed.world import World
from vlp.training.parallel.precision import feature_dtype, resolve
from vlp.training.settings import Training


def first_line(training: Training, world: World, strategy: Strategy) -> str:
    """Ranks, devices, precision, strategy and batch, in one line.

    A launcher that starts fewer processes than it was asked for is seen here (accelerate's `--num_processes 2 --cpu`
    starts one).
    """
    nodes = len(set(world.nodes))
    ranks = f"{world.size} {'rank' if world.size == 1 else 'ranks'}"
    where = f"{world.device.type}{'' if nodes == 1 else f', {nodes} nodes'}"
    rows = training.batch // world.size
    parts = [f"{ranks} on {where}", resolve(training.precision, world.device)]
    if feature_dtype(training.features, training.precision, world.device) is torch.bfloat16:
        parts.append("bf16 features")
    if world.size > 1 and training.parallel != "ddp":
        parts.append(training.parallel)
    if world.size > 1:
        parts.append(f"negatives {strategy}{'' if strategy.exact else ' (approximate)'}")
    batch = f"batch {training.batch:,}" + (f", {rows:,} a rank" if world.size > 1 else "")
    parts.append(batch + (f" in chunks of {training.chunk:,}" if 0 < training.chunk < rows else ""))
    parts.append(f"{training.steps:,} steps, {training.samples:,} pairs")
    return " · ".join(parts)


def batch_norms(model: nn.Module) -> int:
    """How many norms of `model` take their statistics from the batch: batch norms that are not locked."""
    return sum(isinstance(m, _BatchNorm) and m.training and is_trained(m) for m in model.modules())


def is_trained(norm: nn.Module) -> bool:
    """Whether a norm is part of what is trained; one without weights of its own counts as trained."""
    weights = list(norm.parameters())
    return not weights or any(w.requires_grad for w in weights)


def chunk_warning(model: nn.Module, training: Training, world: World) -> str:
    """Why gradient caching is no exact one here; empty where it is, or where there is no caching."""
    norms = batch_norms(model) if 0 < training.chunk < training.batch // world.size else 0
    if not norms:
        return ""
    return (
        f"training.chunk is {training.chunk}: {norms} batch norms of this model see the statistics of a chunk, so loss "
        "and gradient are not those of the whole batch; they are with layer or group norms, or a locked tower"
    )
