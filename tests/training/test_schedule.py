from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.errors import UserError
from vlp.training.schedule import DECAYS, Schedule

share = st.floats(0, 1)


@given(
    st.sampled_from(sorted(DECAYS)),
    st.floats(0, 0.9),
    share,
    share,
    st.lists(share, min_size=2, max_size=9).map(sorted),
)
def test_it_climbs_then_falls_and_stays_between_0_and_1(
    shape: str, warmup: float, decay_from: float, final: float, times: list[float]
) -> None:
    schedule = Schedule(shape, warmup, decay_from, final)  # type: ignore[arg-type]
    values = [schedule(t) for t in times]
    assert all(0 <= v <= 1 for v in values)
    up = [v for t, v in zip(times, values, strict=True) if t < warmup]
    down = [v for t, v in zip(times, values, strict=True) if t >= warmup]
    assert up == sorted(up)
    assert all(a >= b - 1e-12 for a, b in pairwise(down))


@pytest.mark.parametrize("shape", sorted(DECAYS))
def test_its_ends(shape: str) -> None:
    schedule = Schedule(shape, warmup=0.1, final=0.25)  # type: ignore[arg-type]
    assert schedule(0.0) == 0.0
    assert schedule(0.05) == pytest.approx(0.5)
    assert schedule(0.1) == pytest.approx(1.0)
    assert schedule(1.0) == pytest.approx(1.0 if shape == "constant" else 0.25)


def test_a_plateau_before_the_fall() -> None:
    schedule = Schedule("linear", warmup=0.1, decay_from=0.8)
    assert schedule(0.5) == schedule(0.8) == 1.0
    assert schedule(0.9) == pytest.approx(0.5)


def test_halfway_down_the_cosine() -> None:
    assert Schedule("cosine", warmup=0.0)(0.5) == pytest.approx(0.5)


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule.warmup"):
        Schedule(warmup=500)
