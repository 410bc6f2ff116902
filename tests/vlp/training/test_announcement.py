"""A run's first line, and what it admits of batch norms that see chunks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_run import Tiny, trainer
from torch import nn

from vlp.distributed.strategies.strategy import Strategy
from vlp.distributed.world import World
from vlp.training.announcement import batch_norms, chunk_warning, first_line
from vlp.training.settings import Training

FEW = {"samples": 32, "batch": 16, "log_every": 1, "tensorboard": False}


def test_the_first_line_says_what_the_run_is() -> None:
    training = Training(samples=100_000, batch=4096, chunk=256, precision="fp32")
    two = World(0, 8, 0, 4, torch.device("cpu"), (0, 0, 0, 0, 1, 1, 1, 1))
    assert first_line(training, two, Strategy("grid", rows=2, columns=4)) == (
        "8 ranks on cpu, 2 nodes · fp32 · negatives grid:2x4 · batch 4,096, 512 a rank in chunks of 256 · "
        "25 steps, 100,000 pairs"
    )
    alone = World.alone("cpu")
    assert first_line(Training(precision="fp32"), alone, Strategy("grid")).startswith(
        "1 rank on cpu · fp32 · batch 256 ·"
    )
    grouped = first_line(training, two, Strategy("grouped", group=4))
    assert "grouped:4:0 (approximate)" in grouped


def test_the_first_line_says_how_weights_and_features_lie_and_travel() -> None:
    two = World(0, 2, 0, 2, torch.device("cpu"), (0, 0))
    training = Training(precision="fp16", features="bf16", parallel="fsdp2")
    line = first_line(training, two, Strategy("grid", rows=1, columns=2))
    assert line.startswith("2 ranks on cpu · fp16 · bf16 features · fsdp2 · negatives grid:1x2")
    assert "fsdp2" not in first_line(training, World.alone("cpu"), Strategy("grid"))  # one rank has all weights


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_chunks_give_the_loss_of_the_whole_batch_without_batch_norms_and_say_so_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first: dict[tuple[bool, int], float] = {}
    for norm in (False, True):
        for chunk in (0, 4):
            folder = tmp_path / f"{norm}{chunk}"
            model = Tiny(dropout=0.0, norm=norm)
            trainer(folder, Training(chunk=chunk, **FEW), model=model).fit()  # type: ignore[arg-type]
            first[norm, chunk] = losses(folder)[0]
            printed = capsys.readouterr()
            assert ("1 batch norms of this model" in printed.err) == (norm and chunk > 0)
            assert printed.out.startswith("1 rank on cpu")
    assert first[False, 4] == pytest.approx(first[False, 0], rel=1e-5)
    assert first[True, 4] != pytest.approx(first[True, 0], rel=1e-3)


def test_locked_batch_norms_keep_the_promise() -> None:
    each_alone = (nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), *each_alone)
    assert batch_norms(norm) == 1
    assert batch_norms(norm.requires_grad_(False).eval()) == 0
    assert chunk_warning(norm, Training(chunk=4), World.alone("cpu")) == ""
