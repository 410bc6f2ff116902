"""Expected calibration error: how far a model's probabilities are from how often it is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eval.metrics.bootstrap import interval
from eval.metrics.ranking import SCORES_IN_MEMORY, Floats, Ints


class Reliability(NamedTuple):
    """The bins of a reliability diagram, from low confidence to high."""

    edges: Floats  # [M + 1], bin m has confidences in (edges[m], edges[m + 1]]
    counts: Ints  # [M]
    confidence: Floats  # [M] mean of the bin, 0 where it is empty
    accuracy: Floats  # [M]

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al. 2017, equation 3)."""
        gap = np.abs(self.accuracy - self.confidence)
        return float((self.counts * gap).sum() / self.counts.sum())


def bins_of(confidence: Floats, bins: int) -> Ints:
    """[Q] the bin of each confidence, of `bins` of equal width: (0, 1 / bins], (1 / bins, 2 / bins], ...

    >>> bins_of(np.array([0.0, 0.1, 0.5, 0.51, 1.0]), 2)
    array([0, 0, 0, 1, 1])
    """
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(confidence: Floats, hits: Floats, *, bins: int = 15) -> Reliability:
    """The reliability diagram of predictions with these probabilities [Q] that are right (1) or not (0) [Q].

    Nine predictions of 0.9 of which eight are right, and one of 0.2 that is wrong: (9 · |8/9 - 0.9| + 1 · 0.2) / 10.

    >>> round(reliability(np.array([0.9] * 9 + [0.2]), np.array([1.0] * 8 + [0, 0]), bins=10).error, 4)
    0.03
    """
    number = bins_of(confidence, bins)
    counts = np.bincount(number, minlength=bins)
    share = np.maximum(counts, 1)
    return Reliability(
        np.linspace(0, 1, bins + 1),
        counts,
        np.bincount(number, confidence, bins) / share,
        np.bincount(number, hits, bins) / share,
    )


def error_interval(
    confidence: Floats, hits: Floats, *, bins: int = 15, rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the expected calibration error, over queries.

    Resampling adds to the error of a well calibrated model: the interval may lie above the value.
    """
    queries = len(hits)
    rng = np.random.default_rng(seed)
    gap = np.zeros((queries, bins))
    gap[np.arange(queries), bins_of(confidence, bins)] = hits - confidence
    step = max(1, SCORES_IN_MEMORY // queries)
    errors = []
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        drawn = rng.multinomial(queries, np.full(queries, 1 / queries), size=size).astype(np.float64)
        errors.append(np.abs(drawn @ gap).sum(axis=1) / queries)
    return interval(np.concatenate(errors))
