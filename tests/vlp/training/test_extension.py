from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import Tiny, trainer

from vlp.errors import UserError
from vlp.training.extension import extension
from vlp.training.schedules import Schedule
from vlp.training.schedules.cosine import Cosine
from vlp.training.schedules.wsd import WSD
from vlp.training.settings import Training

BASE = Training(
    samples=10 * 16, batch=16, log_every=1, tensorboard=False, checkpoint_every=0.0, keep=99, precision="fp32"
)
STABLE = WSD(warmup_samples=32, decay_from=0.6)


def rates(folder: Path) -> list[float]:
    return [json.loads(line)["learning_rate"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def longer(training: Training, **fields: object) -> Training:
    return replace(training, samples=20 * 16, resume_from="extend", **fields)  # type: ignore[arg-type]


def test_wsd_from_its_plateau_is_the_longer_run_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = replace(BASE, schedule=STABLE)
    whole = trainer(tmp_path / "whole", replace(short, samples=20 * 16)).fit()
    trainer(tmp_path / "run", short).fit()
    for later in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[6:]:
        shutil.rmtree(later)  # those of the fall
    capsys.readouterr()
    extended = trainer(tmp_path / "run", longer(short), model=Tiny(seed=4)).fit()
    assert "goes on at 1 (wsd), as in a run of this length from the start" in capsys.readouterr().out
    assert rates(tmp_path / "run") == rates(tmp_path / "whole")
    for a, b in zip(whole.model.state_dict().values(), extended.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_cosine_is_stretched_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, BASE).fit()
    capsys.readouterr()
    fitted = trainer(tmp_path, longer(BASE)).fit()
    said = capsys.readouterr().out
    assert "extended: 160 of 160 pairs were seen, and 320 are wanted now" in said
    assert "was at 0 of its peak (cosine) and goes on at 0.541 (cosine), but a run of this length" in said
    assert "it rises again, so the loss will rise before it falls" in said
    assert fitted.samples == 320
    whole = Cosine()
    assert rates(tmp_path)[10:] == pytest.approx([1e-3 * whole((step + 0.5) / 20) for step in range(10, 20)])


def test_the_extended_run_goes_on_by_either_command(tmp_path: Path) -> None:
    trainer(tmp_path, BASE).fit()
    trainer(tmp_path, longer(BASE)).fit()
    shutil.rmtree(sorted((tmp_path / "checkpoints").glob("step-*"))[-1])
    again = trainer(tmp_path, replace(longer(BASE), resume_from="newest")).fit()
    assert again.samples == 320


def test_another_budget_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    trainer(tmp_path, BASE).fit()
    with pytest.raises(UserError, match=r"training.samples is 160, here it is 320"):
        trainer(tmp_path, replace(longer(BASE), resume_from="newest")).fit()
    with pytest.raises(UserError, match=r"training.samples is 80, but this run has seen 160 pairs already"):
        trainer(tmp_path, replace(BASE, samples=80, resume_from="extend")).fit()
    with pytest.raises(UserError, match=r"training.seed is 0, here it is 1"):
        trainer(tmp_path, longer(BASE, seed=1)).fit()


@pytest.mark.parametrize("schedule", [Cosine(), STABLE])
def test_nothing_is_said_of_a_run_that_goes_on_as_it_was(schedule: Schedule, tmp_path: Path) -> None:
    training = replace(BASE, schedule=schedule)
    parts = trainer(tmp_path, training)
    assert extension(parts.signature(), training, 5) == ""
