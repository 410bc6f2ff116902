"""What a run computes in: bf16 where the device has units for it."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp16", "fp32", "fp64"]
Resolved = Literal["bf16", "fp16", "fp32", "fp64"]
Features = Literal["auto", "bf16", "fp32"]

HALF: dict[Resolved, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What the towers multiply in, under autocast; the weights themselves stay float32."""


def resolve(precision: Precision, device: torch.device) -> Resolved:
    """What `auto` means on `device`: bf16 where it has units for it, else fp32.

    A CPU without AMX or AVX512_BF16 multiplies bf16 some hundred times slower than fp32.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has = torch.cpu.get_capabilities()
    return "bf16" if has.get("amx_bf16") or has.get("amx_tile") or has.get("avx512_bf16") else "fp32"


def feature_dtype(features: Features, precision: Precision, device: torch.device) -> torch.dtype | None:
    """What the loss is computed on, and what travels; None: the embeddings as the towers give them, float32 at least.

    `auto` is bf16 where the towers run in bf16 on a GPU: a CPU gains nothing by it.
    """
    if features == "auto":
        return torch.bfloat16 if device.type == "cuda" and resolve(precision, device) == "bf16" else None
    return torch.bfloat16 if features == "bf16" else torch.float32
