"""Signals before the first step and after the last: one sentence, and a status that a launcher understands."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from vlp.training.interruption import Interrupted, Interruption, OutsideTheLoop


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_outside_of_the_loop_says_that_nothing_is_lost(
    tmp_path: Path, signum: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as caught, OutsideTheLoop():
        os.kill(os.getpid(), signum)
    assert caught.value.code == (130 if signum == signal.SIGINT else 75)
    caught.value.leave_word(tmp_path)  # for launchers that have a status of their own
    assert (tmp_path / "requeue").exists() == (signum != signal.SIGINT)
    assert f"interrupted by {signum.name} outside of a step; nothing is lost" in capsys.readouterr().err
    assert signal.getsignal(signum) is before


def test_the_loop_takes_over_and_gives_back() -> None:
    with OutsideTheLoop():
        with Interruption() as loop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert loop.asked
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
