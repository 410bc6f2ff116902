"""What a run computes in: bf16 where the device has units for it."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32", "fp64"]


def resolve(precision: Precision, device: torch.device) -> Literal["bf16", "fp32", "fp64"]:
    """What `auto` means on `device`: bf16 where it has units for it, else fp32.

    A CPU without AMX or AVX512_BF16 multiplies bf16 some hundred times slower than fp32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has = torch.cpu.get_capabilities()
    return "bf16" if has.get("amx_bf16") or has.get("amx_tile") or has.get("avx512_bf16") else "fp32"
