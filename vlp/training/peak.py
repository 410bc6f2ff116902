"""How fast this machine multiplies matrices, and how much of that a step needs: what an MFU is made of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from vlp.batch import Batch
from vlp.training.gradient import Buffers, spoken

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of square matrices; the fastest counts
MEASURED_S = 0.2  # for each


@dataclass(frozen=True)
class Utilisation:
    """What a run's rate says of its machine: the model FLOPs utilisation (PaLM, 2204.02311, appendix B)."""

    per_pair: float
    """operations of one forward and backward pass over one pair"""
    peak: float
    """operations per second of all ranks together, at the rate of matrix products on this one"""

    @classmethod
    def measure(cls, model: nn.Module, example: Batch, dtype: torch.dtype, ranks: int) -> Utilisation:
        """Of a model that multiplies in `dtype` on each of so many devices like this one; the model stays as it is."""
        device = example.image.device
        return cls(step_flops(model, example) / len(example), matmul_peak(device, dtype) * ranks)

    def of(self, pairs_per_second: float) -> float:
        """The MFU at this rate, between 0 and 1."""
        return pairs_per_second * self.per_pair / self.peak


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest square matrix product, measured here once with the threads torch has."""
    return _peak(device, dtype, torch.get_num_threads())


@cache
def _peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    return max(_rate(side, device, dtype) for side in SIDES["cuda" if device.type == "cuda" else "cpu"])


def _rate(side: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b  # the first one sets things up
    settle(device)
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_S:
        a @ b
        settle(device)
        products += 1
    return products * 2 * side**3 / (time.perf_counter() - began)


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_flops(model: nn.Module, batch: Batch) -> float:
    """Operations of one forward and backward pass of the towers over `batch`, as torch's counter counts them.

    Encoding twice (`training.chunk`) is not counted: an MFU is about what the model needs. Gradients are left as they
    were, and so are running statistics and random numbers.
    """
    from torch.utils.flop_counter import FlopCounterMode

    kept, buffers = [(p, p.grad) for p in model.parameters()], Buffers(model)
    devices = [batch.image.device] if batch.image.is_cuda else []
    with torch.random.fork_rng(devices), torch.enable_grad(), FlopCounterMode(display=False) as counted:
        out = model(batch.image, spoken(batch))
        (out.image.sum() + out.text.sum()).backward()
    for p, grad in kept:
        p.grad = grad
    buffers.restore()
    return float(counted.get_total_flops())
