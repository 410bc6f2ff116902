"""Calibration, neighbours and agreement of orders, against their definitions."""

from __future__ import annotations

import doctest
import importlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import eval.metrics
from eval.metrics import neighbours
from eval.metrics.agreement import overlap, spearman
from eval.metrics.calibration import error_interval, reliability
from eval.metrics.neighbours import neighbour_votes

FILES = sorted(path.stem for path in Path(eval.metrics.__file__).parent.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", FILES)
def test_docstring_examples(name: str) -> None:
    done = doctest.testmod(importlib.import_module(f"eval.metrics.{name}"))
    assert done.attempted
    assert not done.failed


def test_calibration_error_is_the_sum_over_bins() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(500)
    hits = (rng.random(500) < confidence**2).astype(float)
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.sum() / 500 * abs(hits[inside].mean() - confidence[inside].mean())
    diagram = reliability(confidence, hits)
    assert diagram.error == pytest.approx(expected)
    assert diagram.counts.sum() == 500
    low, high = error_interval(confidence, hits)
    assert low < diagram.error < high
    assert high - low < 0.1


def test_a_calibrated_model_has_no_error_and_a_sure_one_that_errs_has_all() -> None:
    assert reliability(np.full(10, 0.5), np.arange(10) % 2).error == pytest.approx(0)
    assert reliability(np.ones(10), np.zeros(10)).error == pytest.approx(1)


def test_neighbours_vote_as_a_count_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train, queries = rng.normal(size=(40, 6)), rng.normal(size=(9, 6))
    train, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, queries))
    labels = rng.integers(0, 4, 40)
    monkeypatch.setattr(neighbours, "SCORES_IN_MEMORY", 90)
    found = neighbour_votes(queries, train, labels, classes=4, k=7, temperature=0.1)
    for q in range(9):
        cosines = train @ queries[q]
        votes: Counter[int] = Counter()
        for n in sorted(range(40), key=lambda n: -cosines[n])[:7]:
            votes[labels[n]] += np.exp((cosines[n] - cosines.max()) / 0.1)
        assert found[q] == pytest.approx([votes[c] for c in range(4)])


def test_votes_stay_finite_at_a_tiny_temperature() -> None:
    votes = neighbour_votes(np.eye(2), np.eye(2), np.array([0, 1]), classes=2, k=2, temperature=1e-4)
    assert votes == pytest.approx(np.eye(2))


def test_rank_correlation_is_pearson_of_the_ranks() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((5, 30)), rng.random((5, 30))
    for q in range(5):
        ranks = [np.argsort(np.argsort(x[q])) for x in (first, second)]
        assert spearman(first, second)[q] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman(first, 3 * first + 1) == pytest.approx(np.ones(5))
    assert spearman(first, -first) == pytest.approx(-np.ones(5))
    assert spearman(first, np.zeros((5, 30))) == pytest.approx(np.zeros(5))


def test_overlap_is_the_share_of_common_candidates() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((5, 30)), rng.random((5, 30))
    for q in range(5):
        best = [set(np.argsort(-x[q])[:7].tolist()) for x in (first, second)]
        assert overlap(first, second, 7)[q] == pytest.approx(len(best[0] & best[1]) / 7)
