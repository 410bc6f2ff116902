"""What rows say of waits, memory and losses, and evaluations by minutes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data_pipelines.ledger import Ledger
from vlp.batch import Batch
from vlp.losses.infonce import InfoNCE
from vlp.models.dual_encoder import DualEncoder
from vlp.training.optimizers.adamw import AdamW
from vlp.training.parameter_groups import TowerRate
from vlp.training.peak import matmul_peak
from vlp.training.settings import Training
from vlp.training.trainer import Trainer

WAIT_S = 0.02


class Slow:
    """Batches that take a while, of a stream that has lost three samples."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ledger.drop("undecodable picture", "0.tar", 3)

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        while True:
            time.sleep(WAIT_S)
            yield Batch(
                image=torch.randn(8, 3, 4, 4, generator=generator),
                text=torch.randint(1, 9, (8, 5), generator=generator),
                keys=tuple("abcdefgh"),
            )

    def state_dict(self) -> dict[str, Any]:
        return {}


def fitted(
    folder: Path, training: Training, evals: dict[str, Callable[..., Any]] | None = None
) -> list[dict[str, Any]]:
    """The rows of a small run."""
    torch.manual_seed(0)
    image = nn.Sequential(nn.Flatten(), nn.Linear(48, 6))
    text = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 6))
    model = DualEncoder(image, text, mean=(0, 0, 0), std=(1, 1, 1))
    stream = Slow()
    example = next(iter(stream))
    Trainer(training, model, InfoNCE(), lambda _: stream, folder, evals=evals or {}, example=example).fit()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_tell_of_waits_memory_losses_and_towers(tmp_path: Path) -> None:
    training = Training(samples=80, batch=8, log_every=5, tensorboard=False, clip=0.0)
    first, second = fitted(tmp_path, training)
    for row in (first, second):
        assert 5 * WAIT_S <= row["seconds_waiting_for_data"] <= row["seconds"]
        assert row["memory_mib"] > 50
        assert row["samples_lost"] == 3
        # 2 operations a product; forward, and backward to the weights; the text tower's also to the embedding
        needed = 2 * (2 * 48 * 6) + 3 * (2 * 20 * 6)
        peak = matmul_peak(torch.device("cpu"), torch.float32)
        assert row["mfu"] == pytest.approx(needed * row["samples_per_second"] / peak, abs=5e-5)
    one = fitted(tmp_path / "every", Training(samples=8, batch=8, log_every=1, tensorboard=False))[0]
    towers = one["gradient_norm_image"] ** 2 + one["gradient_norm_text"] ** 2
    assert 0 < towers <= one["gradient_norm"] ** 2 * (1 + 1e-5)  # the rest is the scale's and the bias's


def test_rows_tell_the_rate_of_each_tower(tmp_path: Path) -> None:
    optimizer = AdamW(lr=0.01, image=TowerRate(lr=0.1))
    training = Training(samples=8, batch=8, log_every=1, tensorboard=False, optimizer=optimizer)
    row = fitted(tmp_path, training)[0]
    assert row["learning_rate_text"] == pytest.approx(10 * row["learning_rate_image"])
    assert row["learning_rate_text"] == row["learning_rate"] > 0


def test_evaluations_come_by_minutes_and_at_the_end(tmp_path: Path) -> None:
    for minutes, steps in ((1e-9, list(range(2, 11))), (60.0, [10])):  # over before each step ends, and never
        training = Training(samples=80, batch=8, log_every=100, tensorboard=False, eval_minutes=minutes)
        rows = fitted(tmp_path / str(minutes), training, {"x": lambda _: {"y": 1.0}})
        assert [row["step"] for row in rows if "x/y" in row] == steps
