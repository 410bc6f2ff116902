"""The fast metrics against their slow references, against known values, and under hostile scores."""

from __future__ import annotations

import doctest
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import bootstrap as bootstraps
from eval.metrics import graded, per_class, ranking
from eval.metrics.bootstrap import bootstrap
from eval.metrics.graded import average_precision, ndcg
from eval.metrics.per_class import mean_per_class, mean_per_class_reference
from eval.metrics.ranking import (
    Relevant,
    chance_recall,
    first_relevant_rank,
    first_relevant_rank_reference,
    predicted,
    recall_at,
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Relevant]:
    """Queries, candidates and relevance; whole-number embeddings make scores exact and ties frequent."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q, n, spread = draw(st.integers(1, 9)), draw(st.integers(1, 12)), draw(st.integers(0, 3))
    queries = rng.integers(-spread, spread + 1, (q, 3)).astype(np.float32)
    candidates = rng.integers(-spread, spread + 1, (n, 3)).astype(np.float32)
    wanted = [(i, c) for i in range(q) for c in rng.choice(n, rng.integers(1, n + 1), replace=False)]
    rng.shuffle(wanted)
    return queries, candidates, Relevant.from_pairs(*zip(*wanted, strict=True))


def test_docstring_examples() -> None:
    for module in (ranking, graded, per_class, bootstraps):
        done = doctest.testmod(module)
        assert done.attempted
        assert not done.failed


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(1, 40))
def test_ranks_equal_the_reference_however_they_are_chunked(problem: tuple, held: int) -> None:
    queries, candidates, relevant = problem
    expected = first_relevant_rank_reference(queries, candidates, relevant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SCORES_IN_MEMORY", held)
        assert (first_relevant_rank(queries, candidates, relevant) == expected).all()
        first = predicted(queries, candidates, relevant)
    scores = queries @ candidates.T
    for q in range(len(queries)):
        own = relevant.ids[relevant.offsets[q] : relevant.offsets[q + 1]]
        assert scores[q, first[q]] == scores[q].max()
        assert (first[q] in own) == (expected[q] == 0)


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(1, 40))
def test_average_precision_and_ndcg_follow_their_definitions(problem: tuple, held: int) -> None:
    queries, candidates, relevant = problem
    k = 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SCORES_IN_MEMORY", held)
        precision = average_precision(queries, candidates, relevant)
        gain = ndcg(queries, candidates, relevant, k=k)
    for q in range(len(queries)):
        own = set(relevant.ids[relevant.offsets[q] : relevant.offsets[q + 1]].tolist())
        scores = (candidates @ queries[q]).tolist()
        hits = [c in own for c in sorted(range(len(scores)), key=lambda c: (-scores[c], c in own))]
        expected = np.mean([sum(hits[: i + 1]) / (i + 1) for i in range(len(hits)) if hits[i]])
        assert precision[q] == pytest.approx(expected)
        ideal = sum(1 / math.log2(i + 2) for i in range(min(k, len(own))))
        assert gain[q] == pytest.approx(sum(h / math.log2(i + 2) for i, h in enumerate(hits[:k])) / ideal)


def test_graded_gains_prefer_the_better_answer_first() -> None:
    relevant = Relevant.from_pairs([0, 0], [0, 1])
    good_first, good_last = np.array([[1.0], [0.5]]), np.array([[0.5], [1.0]])
    gains = np.array([3.0, 1.0])
    assert ndcg(np.ones((1, 1)), good_first, relevant, k=2, gains=gains) == pytest.approx(1)
    assert ndcg(np.ones((1, 1)), good_last, relevant, k=2, gains=gains) < 0.9


def test_a_collapsed_model_scores_nothing() -> None:
    same = np.full((6, 4), 0.5, np.float32)
    ranks = first_relevant_rank(same, same, Relevant.from_pairs(range(6), range(6)))
    assert recall_at(ranks, 5) == 0


def test_nan_is_refused_and_not_counted_as_a_hit() -> None:
    broken = np.full((2, 2), np.nan, np.float32)
    with pytest.raises(ValueError, match="NaN"):
        first_relevant_rank(broken, broken, Relevant.from_pairs([0, 1], [0, 1]))


def test_a_query_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Relevant.from_pairs([0, 2], [0, 0])
    with pytest.raises(ValueError, match="2 queries"):
        first_relevant_rank(np.ones((2, 2)), np.ones((2, 2)), Relevant.from_pairs([0], [0]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.data())
def test_chance_is_the_share_of_subsets_that_hold_an_answer(n: int, data: st.DataObject) -> None:
    k, m = data.draw(st.integers(1, n)), data.draw(st.integers(1, n))
    subsets = list(combinations(range(n), k))
    expected = sum(any(c < m for c in subset) for subset in subsets) / len(subsets)
    assert chance_recall(np.array([m, m]), n, k) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=30))
def test_mean_per_class_equals_the_reference(pairs: list[tuple[int, int]]) -> None:
    hits, labels = np.array(pairs).T
    expected = mean_per_class_reference(hits, labels)
    assert mean_per_class(hits, labels)[0] == pytest.approx(expected)


def test_mean_per_class_of_a_resampling_is_that_of_the_repeated_queries() -> None:
    rng = np.random.default_rng(0)
    hits, labels = rng.integers(0, 2, 40), rng.integers(0, 6, 40)
    drawn = rng.integers(0, 40, 40)
    weights = np.bincount(drawn, minlength=40)[None]
    assert mean_per_class(hits, labels, weights)[0] == pytest.approx(
        mean_per_class_reference(hits[drawn], labels[drawn])
    )


def test_bootstrap_interval_has_the_width_of_the_binomial_and_repeats() -> None:
    values = (np.arange(1000) < 300).astype(np.float64)
    low, high = bootstrap(values, rounds=2000)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 1000), rel=0.08)
    assert bootstrap(values, rounds=2000) == (low, high)
    assert bootstrap(values, rounds=2000, seed=1) != (low, high)


def test_bootstrap_is_bounded_in_memory_without_changing_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = np.arange(50) % 2, np.arange(50) % 3
    whole = bootstrap(values, labels)
    monkeypatch.setattr(bootstraps, "SCORES_IN_MEMORY", 500)
    assert bootstrap(values, labels) == pytest.approx(whole)
