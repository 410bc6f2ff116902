"""Ranks through an index: flat gives those of brute force, ties and all; others may miss answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.index.flat import Flat
from eval.index.hnsw import Hnsw
from eval.index.ivf import Ivf
from eval.metrics import ranking
from eval.metrics.ranking import Relevant, first_relevant_rank
from eval.search.ranks import ranks_through
from vlp.errors import UserError


def problem(seed: int, queries: int, candidates: int, *, levels: int) -> tuple[np.ndarray, np.ndarray, Relevant]:
    """Vectors of small whole numbers: their products are exact, and many are equal."""
    rng = np.random.default_rng(seed)
    vectors = [rng.integers(-levels, levels + 1, (n, 8)).astype(np.float32) for n in (queries, candidates)]
    more = rng.integers(0, queries, queries)
    asked = np.concatenate([np.arange(queries), more])
    return *vectors, Relevant.from_pairs(asked, rng.integers(0, candidates, len(asked)))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 60), st.integers(1, 12), st.integers(0, 3))
def test_flat_ranks_as_brute_force_does(seed: int, queries: int, candidates: int, most: int, levels: int) -> None:
    """Levels of 0 make all scores equal, as a collapsed model does."""
    q, c, relevant = problem(seed, queries, candidates, levels=levels)
    exact = first_relevant_rank(q, c, relevant)
    for held in (ranking.SCORES_IN_MEMORY, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranking, "SCORES_IN_MEMORY", held)
            ours = ranks_through(Flat(), q, c, relevant, most=most)
        near = exact < most
        assert (ours[near] == exact[near]).all()
        assert (ours[~near] >= most).all()


@pytest.mark.parametrize("kind", [Hnsw(), Ivf(cells=8, probes=1)], ids=["hnsw", "ivf"])
def test_an_approximate_kind_may_lose_an_answer_and_finds_most(kind: Hnsw | Ivf) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16))
    c = centres[rng.integers(0, 20, 500)] + 0.3 * rng.normal(size=(500, 16))
    c = (c / np.linalg.norm(c, axis=1, keepdims=True)).astype(np.float32)
    q = c + 0.05 * rng.normal(size=c.shape).astype(np.float32)
    relevant = Relevant.from_pairs(np.arange(500), np.arange(500))
    exact, ours = first_relevant_rank(q, c, relevant), ranks_through(kind, q, c, relevant, most=10)
    seen = ours < 10
    assert seen.mean() > 0.8
    assert (ours[seen] <= exact[seen]).all()  # a rank among fewer candidates


def test_too_few_candidates_are_one_sentence() -> None:
    q, c, relevant = problem(0, 5, 20, levels=3)
    with pytest.raises(UserError, match="kind ivf needs at least 64 vectors"):
        ranks_through(Ivf(), q, c, relevant, most=5)
