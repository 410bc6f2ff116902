"""The order of epochs: exactly once, the same from anywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loading.epoch_order import Order, OrderSource, Place, mix, permutation
from data_pipelines.loading.mixture import draws_by_factor
from vlp.errors import UserError

layouts = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any)


def order_of(counts: list[int], batch: int, **more: object) -> Order:
    counts_ = np.array(counts, np.int64)
    return Order((OrderSource(counts_, int(counts_.sum())),), batch, **more)  # type: ignore[arg-type]


def epoch_of(order: Order, epoch: int) -> list[list[tuple[int, int, int]]]:
    """(source, shard, sample) of every row of every batch."""
    rows = range(order.global_batch)
    return [[named(order.place(epoch, row, b)) for row in rows] for b in range(order.batches)]


def named(place: Place) -> tuple[int, int, int]:
    return place.source, place.shard, place.sample


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(1, 40), st.integers(1, 16), st.integers(1, 20), st.integers(0, 2**40), st.integers(0, 3))
def test_wrap_gives_every_sample_once_and_then_fills_the_last_batch(  # noqa: PLR0917
    counts: list[int], batch: int, lanes: int, window: int, seed: int, epoch: int
) -> None:
    order = order_of(counts, batch, most_lanes=lanes, window=window, seed=seed)
    seen = Counter(s for rows in epoch_of(order, epoch) for s in rows)
    assert set(seen) == {(0, shard, i) for shard, n in enumerate(counts) for i in range(n)}
    assert sum(seen.values()) - len(seen) == order.batches * batch - sum(counts) < batch


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(1, 40), st.integers(1, 16), st.integers(1, 20), st.integers(0, 3))
def test_drop_gives_no_sample_twice_and_leaves_out_less_than_a_batch(
    counts: list[int], batch: int, lanes: int, window: int, epoch: int
) -> None:
    if sum(counts) < batch:
        with pytest.raises(UserError, match="does not fill one batch"):
            order_of(counts, batch, last="drop")
        return
    order = order_of(counts, batch, most_lanes=lanes, window=window, last="drop")
    seen = Counter(s for rows in epoch_of(order, epoch) for s in rows)
    assert set(seen.values()) == {1}
    assert 0 <= sum(counts) - len(seen) < batch


@settings(max_examples=30, deadline=None)
@given(layouts, layouts, st.integers(1, 12), st.integers(1, 8), st.sampled_from([0.5, 1.0, 1.5, 2.0]))
def test_a_mixture_by_factor_passes_through_each_source_so_often(
    first: list[int], second: list[int], batch: int, lanes: int, factor: float
) -> None:
    sizes = [sum(first), sum(second)]
    draws = draws_by_factor(sizes, [1.0, factor])
    counts = [np.array(c, np.int64) for c in (first, second)]
    order = Order(
        tuple(OrderSource(c, d) for c, d in zip(counts, draws, strict=True)), batch, most_lanes=lanes, window=5
    )
    natural: Counter[tuple[int, int, int]] = Counter()
    for epoch in range(2):
        for lane in range(order.lanes):
            per_lane = batch // order.lanes
            for slot in range(int(order.shares[:, lane].sum())):  # without the fill of the last batch
                turn, column = divmod(slot, per_lane)
                natural[named(order.place(epoch, lane * per_lane + column, turn))] += 1
    for source, size in enumerate(sizes):
        times = [n for (s, _, _), n in natural.items() if s == source]
        assert sum(times) == 2 * draws[source]
        whole = 2 * draws[source] // size
        assert {*times, *([0] if len(times) < size else [])} <= {whole, whole + 1}


def test_batches_of_a_mixture_hold_their_share() -> None:
    order = Order(
        (OrderSource(np.array([3000]), 3000), OrderSource(np.array([1000]), 1000)), 64, most_lanes=16, window=50
    )
    shares = [sum(s == 1 for s, _, _ in rows) for rows in epoch_of(order, 0)[:-1]]
    assert min(shares) >= 12
    assert max(shares) <= 20


def test_any_row_can_be_asked_for_in_any_order() -> None:
    straight, jumping = order_of([30, 50, 7], 8, window=6), order_of([30, 50, 7], 8, window=6)
    asked = [(e, r, t) for e in range(2) for r in range(8) for t in range(11)]
    want = {a: named(straight.place(*a)) for a in asked}
    for i in permutation(len(asked), 5).tolist():
        assert named(jumping.place(*asked[i])) == want[asked[i]]


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = [epoch_of(order_of([40, 40], 8, seed=s), e) for s in (0, 1) for e in (0, 1)]
    assert len({str(o) for o in orders}) == 4


def test_windows_are_shuffled_well() -> None:
    """Samples of one tar that lie side by side are far apart in the epoch."""
    order = order_of([2000], 50, most_lanes=10, window=200)
    when = {sample: b for b, rows in enumerate(epoch_of(order, 0)) for _, _, sample in rows}
    steps = [abs(when[i] - when[i + 1]) for i in range(1999)]
    assert np.mean(steps) > 40 / 3 * 0.8  # two uniform draws from 40 batches are 13.3 apart


def test_the_order_never_changes_by_accident() -> None:
    assert mix(1, 2, 3) == 7702586659592502839
    assert permutation(8, 42).tolist() == [5, 2, 7, 3, 4, 0, 1, 6]
    order = order_of([5, 4, 6], 4, most_lanes=2, window=3, seed=9)
    assert [[(shard, i) for _, shard, i in rows] for rows in epoch_of(order, 1)[:2]] == [
        [(0, 4), (0, 2), (1, 0), (2, 5)],
        [(0, 3), (2, 0), (1, 1), (1, 2)],
    ]


def test_look_ahead_names_the_next_window() -> None:
    order = order_of([40, 24], 4, most_lanes=2, window=8)
    lane_of_first_row = [order.place(0, 0, turn) for turn in range(16)]
    for now in lane_of_first_row:
        coming = {named(p) for p in order.upcoming(0, now)}
        later = {named(p) for p in lane_of_first_row if p.window == now.window + 1}
        assert later <= coming
