"""The worst of several groups, and F1 averaged over classes: what WILDS asks for (Koh et al. 2021, 2012.07421)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.bootstrap import interval
from eval.metrics.ranking import SCORES_IN_MEMORY, Floats, Ints

Statistic = Callable[[Floats], Floats]
"""Weights [R, Q], how often each resampling has each query -> the statistic of each [R]"""


def worst_group(values: NDArray[Any], groups: Ints) -> Statistic:
    """The least of the groups' means of `values` [Q]; a group that a resampling lacks takes no part in it.

    >>> worst_group(np.array([1, 1, 0, 1]), np.array([5, 5, 7, 7]))(np.ones((1, 4)))
    array([0.5])
    """
    own = [groups == group for group in np.unique(groups)]

    def statistic(weights: Floats) -> Floats:
        means = np.full((len(own), len(weights)), np.inf)
        for row, rows in enumerate(own):
            size = weights[:, rows].sum(axis=1)
            np.divide(weights[:, rows] @ values[rows].astype(np.float64), size, out=means[row], where=size > 0)
        return np.asarray(means.min(axis=0))

    return statistic


def f1_macro(labels: Ints, predicted: Ints) -> Statistic:
    """F1 of each class that `labels` [Q] has, averaged: 2 TP / (2 TP + FP + FN), 0 where that is 0 / 0.

    Class 0: one of two right, none too many; class 1: one right, one too many:

    >>> f1_macro(np.array([0, 0, 1]), np.array([0, 1, 1]))(np.ones((1, 3))).round(4)
    array([0.6667])
    """
    classes = np.unique(labels)

    def statistic(weights: Floats) -> Floats:
        every = np.zeros(len(weights))
        for one in classes:
            true, said = labels == one, predicted == one
            hits = weights[:, true & said].sum(axis=1)
            total = weights[:, true].sum(axis=1) + weights[:, said].sum(axis=1)  # 2 TP + FP + FN
            every += np.divide(2 * hits, total, out=np.zeros(len(weights)), where=total > 0)
        return every / len(classes)

    return statistic


def measured(statistic: Statistic, queries: int, *, rounds: int = 1000, seed: int = 0) -> tuple[float, Any]:
    """The statistic of all queries, and its bootstrap interval (95 %, percentile)."""
    rng = np.random.default_rng(seed)
    step = max(1, SCORES_IN_MEMORY // queries)
    drawn = [
        statistic(rng.multinomial(queries, np.full(queries, 1 / queries), size=min(step, rounds - start)).astype(float))
        for start in range(0, rounds, step)
    ]
    return float(statistic(np.ones((1, queries)))[0]), interval(np.concatenate(drawn))
