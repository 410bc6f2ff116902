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
from vlp.training.schedules.inverse_sqrt import InverseSquareRoot
from vlp.training.schedules.linear import Linear
from vlp.training.schedules.wsd import WSD
from vlp.training.settings import Training

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


@pytest.mark.parametrize("shape, tail", [("linear", 0.5), ("one_minus_sqrt", 1 - 0.5**0.5)])
def test_wsd_is_a_plateau_and_a_short_fall(shape: str, tail: float) -> None:
    schedule = WSD(warmup=0.1, shape=shape)  # type: ignore[arg-type]
    assert schedule(0.1) == schedule(0.8) == 1.0
    assert schedule(0.9) == pytest.approx(tail)


def test_the_inverse_square_root_is_the_transformers_with_its_warm_up_as_timescale() -> None:
    schedule = InverseSquareRoot(warmup=0.1, timescale=0.1, cooldown=0.0)
    for progress in (0.1, 0.2, 0.4, 1.0):
        assert schedule(progress) == pytest.approx((0.1 / progress) ** 0.5)
    cooled = InverseSquareRoot(warmup=0.1, timescale=0.1, cooldown=0.5, final=0.1)
    assert cooled(0.5) == schedule(0.5)
    assert cooled(0.75) == pytest.approx((schedule(0.5) + 0.1) / 2)
    assert cooled(1.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "schedule", [WSD(warmup_samples=50), InverseSquareRoot(warmup_samples=50, timescale_samples=40)]
)
def test_lengths_in_pairs_do_not_follow_the_budget(schedule: Schedule) -> None:
    """A longer run has the same rate after the same pairs, as far as neither has begun to fall for good."""
    short, long = schedule.of(1000), schedule.of(4000)
    assert [short(n / 1000) for n in range(0, 800, 50)] == pytest.approx([long(n / 4000) for n in range(0, 800, 50)])


def test_shares_of_a_long_run_fit_a_short_one() -> None:
    """`vlp doctor` runs a few steps of a schedule whose warm-up alone is longer."""
    schedule = InverseSquareRoot(warmup_samples=500, timescale_samples=400).of(10_000)
    assert schedule.of(20) == schedule
    assert schedule.warmup == 0.05


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(UserError, match=r"training.schedule.warmup_samples is 2,000, but the run has 1,024 pairs"):
        Training(samples=1000, schedule=Cosine(warmup_samples=2000))
