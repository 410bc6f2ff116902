"""Paired tests against slow references and against what is known of them."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import paired
from eval.metrics.paired import holm, mcnemar, resampled
from eval.metrics.per_class import mean_per_class


def test_docstring_examples() -> None:
    assert doctest.testmod(paired).failed == 0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(higher: int, lower: int) -> None:
    total, least = higher + lower, min(higher, lower)
    expected = min(1.0, 2 * sum(math.comb(total, k) for k in range(least + 1)) / 2**total)
    assert mcnemar(higher, lower) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(higher, lower) == mcnemar(lower, higher)


def test_mcnemar_of_many_queries_is_finite() -> None:
    assert 0 < mcnemar(50_500, 49_500) < 0.01
    assert mcnemar(50_000, 50_000) == 1.0
    assert mcnemar(1_000_000, 0) == 0.0  # below the smallest number


def test_drawing_cells_is_drawing_queries() -> None:
    """The distribution is that of resampling single queries: its mean and spread, with and without groups."""
    rng = np.random.default_rng(0)
    apart = rng.integers(-1, 2, 400).astype(float)
    groups = np.sort(rng.integers(0, 5, 400))
    for own in (None, groups):
        by_cells = resampled(apart, own, rounds=4000)
        rows = rng.integers(0, 400, (4000, 400))
        by_queries = [apart[r].mean() if own is None else float(mean_per_class(apart[r], own[r])[0]) for r in rows]
        assert by_cells.mean() == pytest.approx(np.mean(by_queries), abs=0.005)
        assert by_cells.std() == pytest.approx(np.std(by_queries), rel=0.06)


def test_the_difference_is_that_of_the_metrics() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random(300), rng.random(300)
    groups = rng.integers(0, 7, 300)
    result = paired.paired(first, second, groups)
    expected = mean_per_class(second, groups)[0] - mean_per_class(first, groups)[0]
    assert result.difference == pytest.approx(expected)
    assert result.interval[0] < result.difference < result.interval[1]
    assert result.test == "bootstrap"
    assert result.higher + result.lower == 300
    same = paired.paired(first, first, groups)
    assert (same.difference, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize("kind", ["hits", "scores"])
def test_equal_models_are_called_different_no_more_often_than_promised(kind: str) -> None:
    """Of 400 pairs of models that are equally good, about 5 % have a p below 0.05 (McNemar's: at most)."""
    rng = np.random.default_rng(2)
    low = 0
    for seed in range(400):
        drawn = rng.random((2, 150))
        first, second = (drawn < 0.4).astype(float) if kind == "hits" else drawn
        if kind == "hits":
            low += paired.mcnemar(int((second > first).sum()), int((second < first).sum())) < 0.05
        else:
            means = resampled(second - first, rounds=1000, seed=seed)
            low += paired.two_sided(means) < 0.05
    assert low / 400 < 0.085
    assert low / 400 > 0.01


def test_a_difference_that_is_there_is_seen_by_either_test() -> None:
    rng = np.random.default_rng(3)
    first = (rng.random(1000) < 0.3).astype(float)
    second = np.where(rng.random(1000) < 0.1, 1.0, first)
    hits = paired.paired(first, second)
    assert hits.test == "McNemar"
    assert hits.p < 0.001
    scores = paired.paired(first * 0.5, second * 0.5)
    assert scores.test == "bootstrap"
    assert scores.p == pytest.approx(2 / 10_001)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_between_the_single_test_and_bonferroni(ps: list[float]) -> None:
    corrected = holm(ps)
    for p, one in zip(ps, corrected, strict=True):
        assert p <= one <= min(1.0, len(ps) * p) + 1e-12
    order = np.argsort(ps, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
