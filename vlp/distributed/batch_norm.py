"""Batch norms whose statistics are those of the global batch, so that ranks train as one process would."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def share_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with every batch norm made to see all ranks' pictures, in place; names and weights stay.

    On GPUs torch's SyncBatchNorm does it; it has no CPU form, so there `SharedBatchNorm` does.
    """
    if device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return synced
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(parent, name, SharedBatchNorm.of(child))
    return model


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm over the pictures of all ranks, which have equally many (all ranks take part in its forward)."""

    @classmethod
    def of(cls, norm: nn.modules.batchnorm._BatchNorm) -> SharedBatchNorm:
        """The same norm, with the very same parameters and buffers."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared._parameters, shared._buffers = norm._parameters, norm._buffers
        return shared.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        return

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, ...] -> [B, C, ...]; by running statistics at evaluation, as any batch norm."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        wide = input.to(torch.promote_types(input.dtype, torch.float32))  # statistics of bfloat16 are float32's
        mean = mean_over_ranks(wide.mean(axes))
        centred = wide - mean.view(shape)
        variance = mean_over_ranks(centred.square().mean(axes))
        self._follow(mean.detach(), variance.detach(), input.numel() // input.shape[1] * dist.get_world_size())
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        out = out * self.weight.view(shape) + self.bias.view(shape) if self.affine else out
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), rate)


class _MeanOverRanks(torch.autograd.Function):
    """The mean of a tensor over all ranks; its gradient is the mean of theirs (all ranks take part in both)."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all ranks, differentiable (all ranks take part)."""
    out: Tensor = _MeanOverRanks.apply(tensor)  # type: ignore[no-untyped-call]
    return out
