"""Trainings that go wrong, and go back: poisoned pictures, poisoned weights, a learning rate far too high."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_run import Poisoned, Tiny, TinyStream, trainer

from vlp.batch import Batch
from vlp.errors import UserError
from vlp.training.guard import Guard
from vlp.training.optimizers.adamw import AdamW
from vlp.training.schedules.constant import Constant
from vlp.training.trainer import Training

GUARD = Guard(patience=3, settle=5)
BASE = Training(
    samples=24 * 16,
    batch=16,
    log_every=1,
    tensorboard=False,
    checkpoint_every=1e9,
    keep_every=3,
    ema=0.9,
    precision="fp32",
    guard=GUARD,
)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rollbacks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rollbacks.jsonl").read_text().splitlines()]


def poisoned(folder: Path, bad: range, training: Training = BASE) -> Any:
    stream = lambda state: Poisoned(state, batch=16, bad=bad)  # noqa: E731
    return replace(trainer(folder, training), open_stream=stream)


def test_poisoned_pictures_are_gone_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five bad batches: after three the run goes back to before them, and the other two are skipped."""
    fitted = poisoned(tmp_path, range(10, 15)).fit()
    assert fitted.steps == 24
    assert fitted.refused == 5
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 25))
    assert rows(tmp_path)[-1]["loss"] < 0.95 * rows(tmp_path)[0]["loss"]
    assert all(v.isfinite().all() for v in fitted.model.state_dict().values())
    (row,) = rollbacks(tmp_path)
    assert (row["step"], row["to"], row["batches"], row["rate"]) == (12, 9, 3, 1.0)
    said = capsys.readouterr().err
    assert "step 12: 3 steps in a row were refused; the run goes back to step 9" in said
    assert "after these 3 batches (rollback 1 of 3)" in said


def test_the_run_that_went_round_is_the_run_without_these_batches(tmp_path: Path) -> None:
    """Weight for weight: going back leaves no trace of what was tried."""

    class Without(TinyStream):
        def __iter__(self) -> Iterator[Batch]:
            return (batch for batch in super().__iter__() if self.step not in range(10, 13))

    steps = replace(BASE, samples=16 * 16)
    a = poisoned(tmp_path / "round", range(10, 13), steps).fit()
    b = replace(trainer(tmp_path / "without", steps), open_stream=lambda state: Without(state, batch=16)).fit()
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_a_refused_batch_is_named_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = replace(BASE, guard=replace(GUARD, keep_batches=2))
    poisoned(tmp_path, range(10, 15), training).fit()
    said = capsys.readouterr().err
    assert (
        "step 10 was refused: the loss is not finite (loss nan, gradient norm nan); 16 pairs: 160, 161, 162 ..." in said
    )
    assert f"it is kept in {tmp_path / 'refused'}" in said
    kept = sorted(path.name for path in (tmp_path / "refused").iterdir())
    assert len(kept) == 4  # of two steps: a description, and the rows of one rank
    with safe_open(tmp_path / "refused" / kept[-1], framework="pt") as file:
        assert file.get_tensor("image").isnan().any()
        assert file.get_tensor("text").shape == (16, 3)
    record = json.loads((tmp_path / "refused" / kept[-2]).read_text())
    assert record["keys"][0] == str(16 * 14)
    assert (record["batch"], record["step"]) == (14, 11)
    assert record["why"] == "the loss is not finite"


def test_what_is_kept_of_refused_batches_is_bounded(tmp_path: Path) -> None:
    for name, guard in (("bytes", replace(GUARD, keep_bytes=100)), ("none", replace(GUARD, keep_batches=0))):
        poisoned(tmp_path / name, range(10, 12), replace(BASE, guard=guard)).fit()
        assert not list((tmp_path / name).glob("refused/*.safetensors"))


def test_poisoned_weights_are_taken_back(tmp_path: Path) -> None:
    """Nothing is wrong with the data: a weight becomes NaN, and every step after it is refused."""
    model = Tiny()

    class Breaks(TinyStream):
        def __iter__(self) -> Iterator[Batch]:
            for batch in super().__iter__():
                if self.step == 15:
                    model.image_head.weight.data[0, 0] = math.nan
                yield batch

    stream = lambda state: Breaks(state, batch=16)  # noqa: E731
    fitted = replace(trainer(tmp_path, BASE, model=model), open_stream=stream).fit()
    assert [(row["step"], row["to"]) for row in rollbacks(tmp_path)] == [(17, 12)]
    assert all(v.isfinite().all() for v in fitted.model.state_dict().values())
    assert rows(tmp_path)[-1]["loss"] < 0.95 * rows(tmp_path)[0]["loss"]


def test_a_learning_rate_far_too_high_is_lowered_until_it_trains(tmp_path: Path) -> None:
    """No loss is infinite here: skipping does not help, the level of the loss is what has gone."""

    class Jumps(Constant):
        """A rate a thousand times too high in the second half of the run."""

        def __call__(self, progress: float) -> float:
            return 1000.0 if progress > 0.5 else 1.0

    guard = Guard(patience=5, settle=5, loss_spike=0.0, gradient_spike=0.0, rollbacks=4, rollback_rate=0.03)
    training = replace(BASE, samples=80 * 16, optimizer=AdamW(lr=1e-2), schedule=Jumps(), guard=guard)
    fitted = trainer(tmp_path, training, model=Tiny(dropout=0.0)).fit()
    went = rollbacks(tmp_path)
    assert 1 <= len(went) <= 4
    assert all("the loss rose from" in row["why"] and row["to"] in (36, 39) for row in went)
    assert [row["rate"] for row in went] == pytest.approx([0.03 ** (n + 1) for n in range(len(went))])
    losses = [row["loss"] for row in rows(tmp_path)]
    assert fitted.steps == len(losses) == 80
    assert sum(losses[-10:]) < sum(losses[29:39])


def test_it_goes_back_so_often_and_no_more(tmp_path: Path) -> None:
    sentence = (
        r"3 steps in a row were refused, the last because the loss is not finite .* gone back 2 times; look at the"
    )
    with pytest.raises(UserError, match=sentence):
        poisoned(tmp_path, range(10, 10**6), replace(BASE, guard=replace(GUARD, rollbacks=2))).fit()
    assert len(rollbacks(tmp_path)) == 2


def test_without_a_good_checkpoint_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no good checkpoint to go back to yet; .*resume-from good"):
        poisoned(tmp_path, range(1, 10**6)).fit()


def test_a_run_that_is_killed_after_it_went_back_comes_to_the_same(tmp_path: Path) -> None:
    """Two more bad stretches follow; the run breaks off in the step after it has gone back, and is started again."""

    class Stop(Exception):
        pass

    class Ends(Poisoned):
        def __iter__(self) -> Iterator[Batch]:
            for batch in super().__iter__():
                if self.step == 14:
                    raise Stop
                yield batch

    bad = range(10, 13)
    whole = poisoned(tmp_path / "whole", bad).fit()
    first = trainer(tmp_path / "parts", BASE)
    with pytest.raises(Stop):
        replace(first, open_stream=lambda state: Ends(state, batch=16, bad=bad)).fit()
    again = poisoned(tmp_path / "parts", bad).fit()
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    )
    assert rows(tmp_path / "parts")[-1]["step"] == 24
