"""On a GPU, a run has the curve that it has on a CPU, and the loss that its definition has in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import engine_cases
import pytest
import torch
from tiny_run import pairs, trainer
from torch.nn.functional import normalize

from vlp.batch import Embeddings
from vlp.distributed.sharded import sharded
from vlp.distributed.world import World
from vlp.losses import Loss
from vlp.losses.infonce import InfoNCE
from vlp.losses.siglip import SigLIP
from vlp.training.settings import Training

GPU = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: run pytest -m gpu on a machine with CUDA"),
]


def embeddings(device: str, dtype: torch.dtype, rows: int = 300) -> Embeddings:
    """Pairs whose picture and caption are near each other, as leaves."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(rows, 32, generator=generator, dtype=torch.float64)
    text = image + torch.randn(rows, 32, generator=generator, dtype=torch.float64)
    scale, bias = (torch.tensor(value, dtype=dtype, device=device, requires_grad=True) for value in (10.0, -5.0))
    image, text = (normalize(x, dim=-1).to(device, dtype).requires_grad_() for x in (image, text))
    return Embeddings(image, text, scale, bias)


@pytest.mark.parametrize("loss", [InfoNCE(), SigLIP()])
@pytest.mark.parametrize(("features", "tolerance"), [(None, 2e-5), (torch.bfloat16, 2e-2)])
def test_loss_and_gradients_are_those_of_the_definition(
    loss: Loss, features: torch.dtype | None, tolerance: float
) -> None:
    exact, here = embeddings("cpu", torch.float64), embeddings(GPU, torch.float32)
    expected = loss.reference(exact)
    expected.backward()
    actual = sharded(loss, World.alone(GPU), features=features)(here)
    actual.backward()
    assert actual.item() == pytest.approx(expected.item(), rel=tolerance)
    for name in ("image", "text", "scale"):
        want, got = getattr(exact, name).grad, getattr(here, name).grad
        error = (got.cpu().double() - want).norm() / want.norm()
        assert error < 2 * tolerance, name


@pytest.mark.parametrize("towers", ["ours", "open_clip", "libraries"])
def test_a_run_in_float64_has_the_curve_of_a_cpu(tmp_path: Path, towers: str) -> None:
    expected = engine_cases.curve(World.alone("cpu"), tmp_path / "cpu", towers=towers)
    actual = engine_cases.curve(World.alone(GPU), tmp_path / "gpu", towers=towers)
    assert actual[:-1] == pytest.approx(expected[:-1], rel=1e-9)
    assert actual[-1] == pytest.approx(expected[-1], rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "bf16", "compile": True},
        {"precision": "bf16", "chunk": 4, "recompute": True},
        {"precision": "bf16", "features": "fp32"},
        {"precision": "fp16"},
        {"precision": "fp32", "chunk": 4},
    ],
)
def test_a_run_in_less_is_near_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    steps = engine_cases.STEPS
    expected = engine_cases.curve(World.alone("cpu"), tmp_path / "cpu")[:steps]
    actual = engine_cases.curve(World.alone(GPU), tmp_path / "gpu", **changes)[:steps]
    assert actual == pytest.approx(expected, rel=2e-3 if changes["precision"] == "fp32" else 5e-2)


def test_a_run_goes_on_from_gpu_to_cpu_and_back(tmp_path: Path) -> None:
    whole = engine_cases.curve(World.alone("cpu"), tmp_path / "whole")
    for last, device in ((1, GPU), (3, "cpu")):
        engine_cases.curve(World.alone(device), tmp_path / "parts", stop=last)
    ended = engine_cases.curve(World.alone(GPU), tmp_path / "parts")
    assert ended[:-1] == pytest.approx(whole[:-1], rel=1e-9)


def test_rows_tell_the_memory_of_the_gpu(tmp_path: Path) -> None:
    training = Training(samples=32, batch=8, log_every=1, tensorboard=False)
    trainer(tmp_path, training, World.alone(GPU), example=pairs(0, 4)).fit()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [0 < row["mfu"] < 1 for row in rows] == [True] * 4
    assert rows[-1]["memory_mib"] == pytest.approx(torch.cuda.max_memory_allocated() / 2**20, rel=0.01)


def test_pictures_get_the_same_embeddings() -> None:
    encoder = engine_cases.model().eval()
    image = pairs(0, 6).image
    with torch.no_grad():
        expected = encoder.encode_image(image)
        actual = encoder.to(GPU).encode_image(image.to(GPU)).cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
