from __future__ import annotations

import pytest

from vlp.errors import UserError
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
    with pytest.raises(UserError, match=r"3 steps in a row .* the loss is not finite .*training.optimizer.lr"):
        watch.judge(NAN, 1.0)
    assert watch.refused == 5


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
