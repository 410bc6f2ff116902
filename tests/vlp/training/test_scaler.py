from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import Tiny, trainer

from vlp.training.guard import Guard
from vlp.training.scaler import EVERY, Scaler
from vlp.training.settings import Training


def test_the_scale_is_that_of_torchs_own_scaler() -> None:
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=EVERY)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    ours, chance = Scaler.of(2.0**16), random.Random(0)
    for _ in range(3 * EVERY):
        norm = math.inf if chance.random() < 0.0008 else 1.0
        weight.grad = theirs.scale(torch.tensor([norm]))
        theirs.step(optimizer)
        theirs.update()
        assert ours.overflowed(1.0, norm) == math.isinf(norm)
        assert ours.scale == theirs.get_scale()
    assert ours.overflows > 1
    assert ours.scale != 2.0**16


def test_what_is_no_matter_of_the_scale_is_left_to_the_guard() -> None:
    assert not Scaler.of(None).overflowed(1.0, math.inf)
    assert not Scaler.of(8.0).overflowed(math.nan, math.nan)
    least = Scaler.of(1.0)
    assert not least.overflowed(1.0, math.inf)
    assert least.scale == 1.0


def test_overflows_skip_steps_without_a_refusal_until_the_scale_fits(tmp_path: Path) -> None:
    """A scale far too high: fp16 overflows some steps in a row, more than the guard's patience, and then trains."""
    training = Training(
        samples=40 * 16, batch=16, precision="fp16", loss_scale=2.0**40, guard=Guard(patience=3), log_every=1,
        tensorboard=False, checkpoint_every=0.0, ema=0.9,
    )  # fmt: skip
    fitted = trainer(tmp_path / "whole", training, model=Tiny(norm=False)).fit()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert fitted.refused == 0
    assert 10 < last["overflows"] < 35
    assert last["loss_scale"] == 2.0 ** (40 - last["overflows"])
    assert last["loss"] < rows[int(last["overflows"])]["loss"]
    assert all(p.isfinite().all() for p in fitted.model.parameters())
    # half of it, and the rest from its checkpoint: the scale went on
    parts = tmp_path / "parts"
    with pytest.raises(RuntimeError, match="enough"):
        trainer(parts, training, model=Tiny(norm=False), saving=Enough(15)).fit()
    again = trainer(parts, replace(training, loss_scale=4.0), model=Tiny(norm=False)).fit()
    for a, b in zip(fitted.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


class Enough:
    """Ends a run when it writes a checkpoint for the n-th time."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, positions: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("enough")
