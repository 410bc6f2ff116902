from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loading.mixture import draws_by_factor, draws_by_weight, interleave
from vlp.errors import UserError


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 10**9))
def test_draws_by_weight_are_exact_to_one_sample(weights: list[float], total: int) -> None:
    draws = draws_by_weight([10] * len(weights), weights, total)
    assert sum(draws) == total
    assert all(abs(d - total * w / sum(weights)) < 1 + 1e-6 * total for d, w in zip(draws, weights, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=4).filter(any))
def test_interleaved_sources_stay_near_their_share(shares: list[int]) -> None:
    source, nth = interleave(shares)
    count = [0] * len(shares)
    for turn, (s, k) in enumerate(zip(source.tolist(), nth.tolist(), strict=True), 1):
        assert k == count[s]
        count[s] += 1
        off = max(abs(c - turn * n / sum(shares)) for c, n in zip(count, shares, strict=True))
        assert off <= max(1, len(shares) - 1)
    assert count == shares


def test_bad_weights_are_refused() -> None:
    with pytest.raises(UserError, match="not all 0"):
        draws_by_weight([5, 5], [0, 0], 10)
    with pytest.raises(UserError, match="one for each"):
        draws_by_factor([5, 5], [1.0])
    with pytest.raises(UserError, match="no samples"):
        draws_by_factor([5, 0], [1.0, 1.0])
