"""The short help: about forty flags, their values as the presets leave them, and the way to the rest."""

from __future__ import annotations

import re

import pytest

import train
from vlp.config import build, read_preset
from vlp.config.flags_help import common, field_docs


def flags_of(text: str) -> list[str]:
    return re.findall(r"^  (--\S+)", text, re.MULTILINE)


def test_help_shows_the_flags_people_set_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["demo", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    shown = flags_of(text)
    assert 25 <= len(shown) <= 45
    assert {"--out", "--training.samples", "--training.optimizer.lr", "--loss.name"} <= set(shown)
    assert "[250000]" in text  # the preset's value
    assert "infonce, isogclr, kernel, m3col, macl, mochi, moco, multi_positive" in " ".join(text.split())
    assert "--help-all" in text
    assert max(map(len, text.splitlines())) <= 120


def test_help_all_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["demo", "--help-all"])
    assert ended.value.code == 0
    assert "--training.guard.patience" in capsys.readouterr().out


def test_every_flag_shown_has_a_sentence() -> None:
    run = build(train.RunConfig, read_preset("demo"))
    assert all(doc for _, _, doc in common(run))


def test_docs_come_from_base_classes_too() -> None:
    run = build(train.RunConfig, read_preset("demo"))
    assert "label_smoothing" in field_docs(type(run.loss))
