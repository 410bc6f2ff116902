"""How fast this machine multiplies matrices, and how much of that a step needs: what an MFU is made of."""

from __future__ import annotations

import time

import torch
from torch import nn

from vlp.batch import Batch

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of square matrices; the fastest counts
MEASURED_S = 0.3  # for each


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest square matrix product, measured here with the threads that torch has."""
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
    were.
    """
    from torch.utils.flop_counter import FlopCounterMode

    kept = [(p, p.grad) for p in model.parameters()]
    with torch.enable_grad(), FlopCounterMode(display=False) as counted:
        out = model(batch.image, batch.text)
        (out.image.sum() + out.text.sum()).backward()
    for p, grad in kept:
        p.grad = grad
    return float(counted.get_total_flops())
