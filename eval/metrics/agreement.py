"""How alike two lists of scores order the same candidates."""

from __future__ import annotations

import numpy as np

from eval.metrics.ranking import Floats


def mean_ranks(scores: Floats) -> Floats:
    """[Q, N] rank of each score of its row, from 0 for the lowest; equal scores share the mean of their ranks.

    >>> mean_ranks(np.array([[0.3, 0.1, 0.3]]))
    array([[1.5, 0. , 1.5]])
    """
    rows, columns = scores.shape
    order = np.argsort(scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    new = np.ones((rows, columns), bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    run = np.cumsum(new.ravel()) - 1
    places = np.tile(np.arange(columns, dtype=np.float64), rows)
    mean = np.bincount(run, places) / np.bincount(run)
    ranks = np.empty(scores.shape)
    np.put_along_axis(ranks, order, mean[run].reshape(rows, columns), axis=1)
    return ranks


def spearman(first: Floats, second: Floats) -> Floats:
    """[Q] Spearman's rank correlation of scores [Q, N] and [Q, N]; 0 where one of the two has no order at all.

    >>> spearman(np.array([[1.0, 2.0, 3.0]]), np.array([[9.0, 5.0, 7.0]]))
    array([-0.5])
    """
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (mean_ranks(first), mean_ranks(second)))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray(np.divide((a * b).sum(axis=1), size, out=np.zeros(len(a)), where=size > 0))


def overlap(first: Floats, second: Floats, k: int) -> Floats:
    """[Q] share of the k candidates of the highest scores that both have; of equal scores the first candidates count.

    >>> overlap(np.array([[3.0, 2.0, 1.0]]), np.array([[3.0, 1.0, 2.0]]), 2)
    array([0.5])
    """
    k = min(k, first.shape[1])
    chosen = np.zeros((2, *first.shape), bool)
    for number, scores in enumerate((first, second)):
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        np.put_along_axis(chosen[number], best, values=True, axis=1)
    return np.asarray((chosen[0] & chosen[1]).sum(axis=1) / k)
