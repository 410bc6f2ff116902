"""What the loss is computed on: rounded features, gradients that are not."""

from __future__ import annotations

import pytest
import torch

from benchmarks.features import embeddings, errors, leaves
from vlp.distributed.sharded import sharded
from vlp.distributed.world import World
from vlp.losses import Loss
from vlp.losses.infonce import InfoNCE
from vlp.losses.siglip import SigLIP
from vlp.training.parallel.precision import feature_dtype


@pytest.mark.parametrize("loss", [InfoNCE(), SigLIP()], ids=["infonce", "siglip"])
@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
def test_the_error_of_rounded_features_is_that_of_the_docs(loss: Loss, scale: float) -> None:
    """docs/loss.md: bf16 costs less than 2e-4 of the loss and 4e-3 of its gradient; fp32 2e-6."""
    e = embeddings(512, 256, scale)
    half, single = errors(loss, e, torch.bfloat16), errors(loss, e, torch.float32)
    assert half["loss"] < 2e-4
    assert max(half["picture"], half["caption"], half["scale"]) < 4e-3
    assert max(single.values()) < 2e-6
    assert half["picture"] > 100 * single["picture"]  # they are rounded indeed


def test_gradients_come_in_the_precision_of_the_embeddings() -> None:
    """The gradient at rounded features is not rounded itself: it is the float32 gradient at those very features."""
    e = embeddings(64, 32, 20.0)
    given, exact = leaves(e, torch.float32), leaves(e, torch.float64)
    sharded(InfoNCE(), World.alone("cpu"), features=torch.bfloat16)(given).backward()
    with torch.no_grad():
        exact.image.copy_(given.image.bfloat16())
        exact.text.copy_(given.text.bfloat16())
    InfoNCE().reference(exact).backward()
    for a, b in ((given.image.grad, exact.image.grad), (given.scale.grad, exact.scale.grad)):
        assert a is not None
        assert b is not None
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-8)


def test_auto_is_bf16_where_towers_run_in_bf16_on_a_gpu() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert feature_dtype("auto", "bf16", gpu) == torch.bfloat16
    assert feature_dtype("auto", "fp32", gpu) is None
    assert feature_dtype("auto", "fp16", gpu) is None
    assert feature_dtype("auto", "bf16", cpu) is None
    assert feature_dtype("bf16", "fp32", cpu) == torch.bfloat16
    assert feature_dtype("fp32", "bf16", gpu) == torch.float32
