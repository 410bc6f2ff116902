from __future__ import annotations

import pkgutil
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.config import component
from vlp.errors import UserError
from vlp.training import schedules
from vlp.training.schedules import Schedule
from vlp.training.schedules.cosine import Cosine
from vlp.training.schedules.linear import Linear

NAMES = sorted(m.name for m in pkgutil.iter_modules(schedules.__path__))


def made(name: str, **fields: float) -> Schedule:
    schedule: Schedule = component(Schedule, name)(**fields)
    return schedule


share = st.floats(0, 1)


@given(
    st.sampled_from(NAMES),
    st.floats(0, 0.9),
    share,
    share,
    st.lists(share, min_size=2, max_size=9).map(sorted),
)
def test_it_climbs_then_falls_and_stays_between_0_and_1(
    shape: str, warmup: float, decay_from: float, final: float, times: list[float]
) -> None:
    schedule = made(shape, warmup=warmup, decay_from=decay_from, final=final)
    values = [schedule(t) for t in times]
    assert all(0 <= v <= 1 for v in values)
    up = [v for t, v in zip(times, values, strict=True) if t < warmup]
    down = [v for t, v in zip(times, values, strict=True) if t >= warmup]
    assert up == sorted(up)
    assert all(a >= b - 1e-12 for a, b in pairwise(down))


@pytest.mark.parametrize("shape", NAMES)
def test_its_ends(shape: str) -> None:
    schedule = made(shape, warmup=0.1, final=0.25)
    assert schedule(0.0) == 0.0
    assert schedule(0.05) == pytest.approx(0.5)
    assert schedule(0.1) == pytest.approx(1.0)
    assert schedule(1.0) == pytest.approx(1.0 if shape == "constant" else 0.25)


def test_a_plateau_before_the_fall() -> None:
    schedule = Linear(warmup=0.1, decay_from=0.8)
    assert schedule(0.5) == schedule(0.8) == 1.0
    assert schedule(0.9) == pytest.approx(0.5)


def test_halfway_down_the_cosine() -> None:
    assert Cosine(warmup=0.0)(0.5) == pytest.approx(0.5)


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule.warmup"):
        Cosine(warmup=500)
