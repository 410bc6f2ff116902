from __future__ import annotations

import re
from dataclasses import replace

import pytest

from vlp.training.guard import Guard, Watch

INF, NAN = float("inf"), float("nan")


def calm(guard: Guard = Guard(), steps: int = 100) -> Watch:  # noqa: B008
    watch = guard.watch()
    for i in range(steps):
        assert watch.judge(5.0 + 0.2 * (i % 3), 1.0 + 0.3 * (i % 2)) == ""
    return watch


@pytest.mark.parametrize(
    ("loss", "norm", "verdict"),
    [
        (5.0, 1.0, ""),
        (NAN, 1.0, "the loss is not finite"),
        (5.0, INF, "the gradient is not finite"),
        (50.0, 1.0, "the loss jumped"),
        (5.0, 100.0, "the gradient jumped"),
        (10.0, 10.0, ""),
    ],
)
def test_verdicts(loss: float, norm: float, verdict: str) -> None:
    assert calm().judge(loss, norm) == verdict


def test_the_first_steps_may_jump_but_must_be_finite() -> None:
    watch = Guard(settle=5).watch()
    assert [watch.judge(v, v) for v in (1.0, 100.0, 1.0)] == ["", "", ""]
    assert watch.judge(NAN, 1.0)


def test_patience_ends_with_a_sentence_and_a_good_step_renews_it() -> None:
    watch = calm(Guard(patience=3))
    assert watch.judge(NAN, 1.0)
    assert watch.judge(NAN, 1.0)
    assert not watch.judge(5.0, 1.0)
    assert watch.judge(NAN, 1.0)
    assert watch.judge(NAN, 1.0)
    assert not watch.lost
    assert watch.judge(NAN, 1.0)
    assert watch.lost == "3 steps in a row were refused"
    sentence = str(watch.give_up(NAN, 1.0, "it may not go back"))
    assert re.search(r"3 steps in a row .* the loss is not finite .*may not go back; .*training.optimizer.lr", sentence)
    assert watch.refused == 5


def test_a_loss_that_loses_what_it_had_gained_is_a_divergence() -> None:
    """Though no step of it jumps: it is doubted first, and what falls again is none."""
    guard = Guard(settle=10)
    watch = guard.watch()
    for i in range(200):
        watch.judge(5.0 - 4.0 * min(1.0, i / 100), 1.0)  # from 5 to 1
        assert not watch.lost
        assert not watch.doubtful
    seen: list[str] = []
    for i in range(100):
        assert watch.judge(1.0 + 0.05 * i, 1.0) == ""
        seen.append("lost" if watch.lost else "doubtful" if watch.doubtful else "")
    assert sorted(set(seen), key=seen.index) == ["", "doubtful", "lost"]
    assert 40 < seen.index("lost") < 60  # half of the four, seen late by a mean over ten steps
    assert watch.lost.startswith("the loss rose from 1 to 5.5")


def test_a_loss_that_never_falls_is_a_divergence_when_it_rises_by_an_eighth() -> None:
    watch = Guard(settle=10).watch()
    for i in range(100):
        watch.judge(5.0 + 0.1 * (i % 3), 1.0)
    assert not watch.lost
    for _ in range(40):
        watch.judge(5.6, 1.0)
    assert not watch.lost
    for _ in range(40):
        watch.judge(6.0, 1.0)
    assert watch.lost


def test_zero_divergence_switches_it_off() -> None:
    watch = calm(Guard(divergence=0.0, loss_spike=0.0))
    for _ in range(100):
        watch.judge(1000.0, 1.0)
    assert not watch.lost
    assert not watch.doubtful


def test_going_back_keeps_what_has_happened() -> None:
    guard = Guard(patience=2, rollback_rate=0.5)
    good, bad = calm(guard), calm(guard)
    for _ in range(2):
        bad.judge(NAN, 1.0)
    good.went_back(bad, batches=30)
    assert (good.refused, good.rollbacks, good.skipped, good.rate) == (2, 1, 30, 0.5)
    assert not good.lost
    bad = replace(good)
    good.went_back(bad, batches=5)
    assert (good.rollbacks, good.skipped, good.rate) == (2, 35, 0.25)


def test_a_lasting_change_of_level_is_followed() -> None:
    watch = calm(Guard(patience=1000))
    verdicts = [bool(watch.judge(18.0, 1.0)) for _ in range(200)]
    assert verdicts[0]
    assert not any(verdicts[-100:])


def test_zero_switches_the_judgement_of_jumps_off() -> None:
    watch = calm(Guard(loss_spike=0.0, gradient_spike=0.0))
    assert watch.judge(1e9, 1e9) == ""
    assert watch.judge(INF, 1.0)


def test_it_goes_on_where_it_was() -> None:
    a, b = calm(), Guard().watch()
    b.load_state_dict(a.state_dict())
    assert a == b
