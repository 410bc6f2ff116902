"""Runs with a bank and a momentum teacher that end early: they go on to equal weights and an equal bank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
from test_processes import finish, start, start_two, wait_for_step, weights

from vlp.batch import Batch
from vlp.teachers.momentum import Following
from vlp.training.trainer import Trainer, Training

STEPS = 7
TRAINING = Training(samples=STEPS * 16, batch=16, checkpoint_every=0.0, log_every=1, tensorboard=False)


class Fails(tiny_run.TinyStream):
    """Its fifth batch does not come."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if self.step == 5:
                raise OSError("gone")
            yield batch


def run_of(folder: Path, loss: str, training: Training = TRAINING) -> Trainer:
    model = tiny_run.Tiny(dropout=0.0, norm=training.chunk == 0)
    parts = {"loss": tiny_run.LOSSES[loss], "guide": Following(0.9), "model": model}
    return tiny_run.trainer(folder, training, **parts)


def bank_in(folder: Path, loss: str, training: Training = TRAINING) -> dict[str, torch.Tensor]:
    """What the last checkpoint of a run has in its bank."""
    state, *_ = run_of(folder, loss, training).start()
    return state.companions[-1].state_dict()


def test_a_run_with_a_bank_that_fails_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = run_of(tmp_path / "whole", "moco").fit()
    with pytest.raises(OSError, match="gone"):
        replace(run_of(tmp_path / "cut", "moco"), open_stream=lambda state: Fails(state, batch=16)).fit()
    resumed = run_of(tmp_path / "cut", "moco").fit()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
    before, after = bank_in(tmp_path / "whole", "moco"), bank_in(tmp_path / "cut", "moco")
    assert len(before["image"]) == 64
    assert int(before["steps"]) == STEPS
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("loss", tiny_run.LOSSES)
def test_ranks_killed_and_started_in_another_number_end_with_equal_weights_and_an_equal_bank(
    loss: str, tmp_path: Path
) -> None:
    """Two ranks, then one, then two again, each but the last killed with -9; beside one process that goes through."""
    flags = ["--precision", "fp64", "--plain", "--steps", "40", "--chunk", "4", "--teacher", "0.9", "--loss", loss]
    finish(start(tmp_path / "whole", *flags))
    for step, begin in ((7, start_two), (19, lambda *given: [start(*given)])):
        ranks = begin(tmp_path / "killed", "--pause", "0.02", *flags)
        wait_for_step(tmp_path / "killed" / "4", step)
        for process in ranks:
            process.kill()
        for process in ranks:
            process.communicate()
    finish(*start_two(tmp_path / "killed", *flags))
    a, b = weights(tmp_path / "whole" / "4"), weights(tmp_path / "killed" / "4")
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-10, atol=1e-11)
    training = Training(
        samples=640, batch=16, chunk=4, checkpoint_every=0.0, log_every=1, ema=0.9, tensorboard=False, precision="fp64"
    )
    before, after = (bank_in(tmp_path / name / "4", loss, training) for name in ("whole", "killed"))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-10, atol=1e-11)
