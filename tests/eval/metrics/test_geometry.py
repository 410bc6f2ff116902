"""Geometry of embeddings, against the definitions pair by pair."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from eval.metrics import geometry


def unit(n: int, d: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_uniformity_is_the_log_of_the_mean_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = unit(30, 4)
    expected = np.log(np.mean([np.exp(-2 * ((a - b) ** 2).sum()) for a, b in combinations(x.astype(float), 2)]))
    monkeypatch.setattr(geometry, "SCORES_IN_MEMORY", 100)  # three rows at a time
    assert geometry.uniformity(x) == pytest.approx(expected, abs=1e-6)
    groups = np.arange(30) % 4
    sums = geometry.gaussian_sums(x, groups, 4)
    assert geometry.uniformity_of_sums(sums, np.bincount(groups)) == pytest.approx(expected, abs=1e-6)
    some = np.array([0, 2])
    left = x[np.isin(groups, some)]
    part = geometry.uniformity_of_sums(sums[np.ix_(some, some)], np.bincount(groups)[some])
    assert part == pytest.approx(geometry.uniformity(left), abs=1e-6)


def test_effective_rank_is_that_of_the_singular_values() -> None:
    x = unit(50, 6).astype(float) * [1, 1, 1, 0.1, 0.1, 0]
    share = np.linalg.svd(x, compute_uv=False)
    share = share[share > 1e-9] / share.sum()
    assert geometry.effective_rank(x.T @ x) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_a_collapsed_space_has_one_dimension_and_no_uniformity() -> None:
    x = np.tile(unit(1, 8), (40, 1))
    assert geometry.uniformity(x) == pytest.approx(0, abs=1e-6)
    assert geometry.effective_rank(x.T.astype(float) @ x) == pytest.approx(1, abs=1e-3)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=(20, 50))
    low, high = geometry.jackknife(lambda some: float(values[some].mean()), 20)
    error = values.mean(axis=1).std(ddof=1) / np.sqrt(20)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=1e-4)
