"""Ranks of relevant candidates through an index, in place of comparing every query with every candidate."""

from __future__ import annotations

import numpy as np

from eval.index import NOTHING, Floats, Hits, Index
from eval.metrics import ranking
from eval.metrics.ranking import Ints, Relevant


def ranks_through(kind: Index, queries: Floats, candidates: Floats, relevant: Relevant, *, most: int) -> Ints:
    """[Q] the rank, from 0, of each query's best relevant candidate among the hits of an index; `most` or more: none.

    queries: [Q, D]; candidates: [N, D], unit norm. Ties are broken as `first_relevant_rank` breaks them: against the
    model. `most` hits are asked for, and more where the last of them ties with the answer. Raises UserError if there
    are too few candidates to train the kind on.
    """
    vectors = kind.empty(candidates.shape[1])
    vectors.train(candidates)
    vectors.add(candidates, np.arange(len(candidates)))
    ranks = np.empty(len(queries), np.int64)
    open_, k = np.arange(len(queries)), min(most, len(candidates))
    while len(open_):
        step = max(1, ranking.SCORES_IN_MEMORY // k)
        parts = [open_[start : start + step] for start in range(0, len(open_), step)]
        undecided = []
        for rows in parts:
            ranks[rows], ties = _ranks(vectors.search(queries[rows], k), relevant, rows)
            undecided.append(rows[ties])
        open_ = np.concatenate(undecided) if k < len(candidates) else np.empty(0, np.int64)
        k = min(2 * k, len(candidates))
    return ranks


def _ranks(hits: Hits, relevant: Relevant, rows: Ints) -> tuple[Ints, Ints]:
    """[R] ranks of the queries `rows` [R] by their hits, the greatest integer where none answers.

    And the places of those that may be worse: their last hit has the score of the answer, as others after it may.
    """
    counts = relevant.counts[rows]
    row = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    answers = relevant.ids[np.repeat(relevant.offsets[rows], counts) + within]
    width = 1 + max(int(hits.ids.max(initial=0)), int(answers.max(initial=0)))
    numbers = np.arange(len(rows))[:, None] * width + hits.ids
    answer = np.isin(numbers, row * width + answers) & (hits.ids != NOTHING)
    best = np.where(answer, hits.scores, -np.inf).max(axis=1)
    there = np.isfinite(best)
    ahead = ((hits.scores >= best[:, None]) & ~answer & (hits.ids != NOTHING)).sum(axis=1)
    ranks = np.where(there, ahead, np.iinfo(np.int64).max)
    return ranks, np.flatnonzero(there & (hits.scores[:, -1] >= best))
