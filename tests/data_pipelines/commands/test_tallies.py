"""Counts in bounded memory: exact while they can be, and within the stated error when they cannot."""

from __future__ import annotations

import doctest
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.commands import tallies
from data_pipelines.commands.tallies import Distinct, Frequent, Histogram


def test_the_examples_are_true() -> None:
    assert doctest.testmod(tallies).failed == 0


@given(st.lists(st.integers(0, 999), min_size=1, max_size=60), st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
def test_quantiles_of_small_whole_numbers_are_exact(values: list[int], share: float) -> None:
    numbers = Histogram()
    for value in values:
        numbers.add(value)
    assert numbers.quantile(share) == sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    assert (numbers.count, numbers.mean) == (len(values), pytest.approx(np.mean(values)))


def test_other_quantiles_are_right_to_half_a_percent_in_bounded_memory(rng: np.random.Generator) -> None:
    values = np.exp(rng.normal(8, 3, 50_000))
    numbers = Histogram()
    for value in values.tolist():
        numbers.add(value)
    for share in (0.01, 0.5, 0.99):
        assert numbers.quantile(share) == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=5e-3)
    decades = math.log10(numbers.greatest / numbers.least) + 2
    assert len(numbers.bins) <= 1000 * decades
    assert (numbers.least, numbers.greatest) == (values.min(), values.max())


@given(st.lists(st.integers(0, 400).map(lambda n: str(n * n // 1000)), max_size=500), st.integers(1, 8))
def test_frequent_counts_are_never_too_high_and_short_by_what_is_told(values: list[str], size: int) -> None:
    held, true = Frequent(size), Counter(values)
    for value in values:
        held.add(value)
    assert len(held.counts) <= 2 * size
    for value, n in true.items():
        assert n - held.short <= held.counts[value] <= n
    if len(true) <= 2 * size:
        assert held.short == 0


def test_distinct_is_exact_while_few_and_near_when_many() -> None:
    few, many = Distinct(), Distinct(size=4096)
    for n in range(60_000):
        few.add(b"%d" % (n % 1000))
        many.add(b"%d" % (n % 40_000))
    assert few.exact
    assert (few.distinct, few.repeated) == (1000, 59_000)
    assert not many.exact
    assert len(many.kept) <= 4096
    assert many.distinct == pytest.approx(40_000, rel=4 * 1.2 / 64)
