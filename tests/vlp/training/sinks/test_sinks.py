from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from vlp.errors import UserError
from vlp.training.sinks import Sinks
from vlp.training.sinks.console import Bar, Lines, clock, evaluation_text
from vlp.training.sinks.json_lines import JsonLines
from vlp.training.sinks.tensorboard import Tensorboard
from vlp.training.sinks.wandb import Wandb


def test_lines_are_cut_at_the_position_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Sinks([JsonLines(path)])
    first.record({"step": 1, "loss": 2.0})
    position = first.position
    first.record({"step": 2, "loss": float("nan")})
    assert json.loads(path.read_text().splitlines()[1]) == {"step": 2, "loss": None}  # on disk at once, valid JSON
    with Sinks([JsonLines(path, position)]) as second:
        second.record({"step": 2, "loss": 1.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_new_run_clears_old_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 7}\n')
    JsonLines(path).close()
    assert path.read_text() == ""


def test_without_a_terminal_there_are_few_lines_and_always_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(total=1000, every=60.0)
    for samples in range(100, 1001, 100):
        lines.moved(samples, {"loss": 2.0, "samples_per_second": 50.0})
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "100 of 1,000 pairs (10%) · loss 2.000 · 50 pairs/s · 0:18 to go",
        "1,000 of 1,000 pairs (100%) · loss 2.000 · 50 pairs/s · 0:00 to go",
    ]


def test_the_bar_shows_where_it_is() -> None:
    bar = Bar(total=100, done=20)
    bar.moved(60, {"loss": 1.0, "samples_per_second": 10.0})
    task = bar.bar.tasks[0]
    bar.close()
    assert (task.completed, task.total, task.fields["loss"]) == (60, 100, 1.0)


def test_events_can_be_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = Tensorboard(tmp_path, 0)
    events.record({"step": 3, "loss": 2.5})
    events.record({"step": 3, "val/recall": 0.25})
    events.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(3, 2.5)]
    assert [(e.step, e.value) for e in read.Scalars("val/recall")] == [(3, 0.25)]


def test_a_missing_wandb_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "wandb":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install .vlp\[wandb\]"):
        Wandb("project", tmp_path)


def test_texts() -> None:
    assert clock(247) == "4:07"
    assert clock(12_000) == "3 h 20 min"
    assert evaluation_text({"step": 1, "samples": 2000, "val/r1": 0.5}) == "at 2,000 pairs: val/r1 0.5000"
    assert evaluation_text({"step": 1, "samples": 2000, "loss": 0.5}) == ""


def test_no_room_for_a_row_is_the_sentence_of_a_full_disk_and_nothing_after_it(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    with Path("/dev/full").open("wb", buffering=0) as sink.file:  # a device that is always full
        with pytest.raises(UserError, match=r"the disk is full .*metrics.jsonl could .*; the checkpoints are"):
            with Sinks([sink]) as sinks:
                sinks.record({"step": 1, "loss": 2.0})
