"""Is one model better than another on the same queries? Paired tests, and their correction for many metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.bootstrap import interval
from eval.metrics.ranking import SCORES_IN_MEMORY, Floats, Ints

ROUNDS = 10_000  # so that the least p of the bootstrap, 2 / 10,001, survives the correction for 200 metrics


@dataclass(frozen=True)
class Paired:
    """One metric of two models on the same queries; differences are the second's value minus the first's."""

    difference: float
    interval: tuple[float, float]  # paired bootstrap over queries, 95 %
    p: float  # two-sided
    test: str  # "McNemar" or "bootstrap"
    higher: int  # queries on which the second scores more
    lower: int  # queries on which it scores less


def paired(first: Floats, second: Floats, groups: Ints | None = None, *, seed: int = 0) -> Paired:
    """The difference of two models by what each query [Q] scored: 0 or 1 by McNemar's test, else by the bootstrap.

    groups: [Q] where the metric is the mean of the groups' means; it is then always the bootstrap.
    """
    apart = second - first
    higher, lower = int((apart > 0).sum()), int((apart < 0).sum())
    drawn = resampled(apart, groups, seed=seed)
    hits = groups is None and bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    p = mcnemar(higher, lower) if hits else two_sided(drawn)
    return Paired(_mean(apart, groups), interval(drawn), p, "McNemar" if hits else "bootstrap", higher, lower)


def mcnemar(higher: int, lower: int) -> float:
    """The exact two-sided p of so many queries for one model and so many for the other (McNemar 1947, binomial form).

    Of 10 queries on which they differ, 9 are for one: 2 · (C(10, 0) + C(10, 1)) / 2^10.

    >>> round(mcnemar(9, 1), 6), mcnemar(3, 3), mcnemar(0, 0)
    (0.021484, 1.0, 1.0)
    """
    total, least = higher + lower, min(higher, lower)
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(least + 1)
    ]
    top = max(logs)
    return min(1.0, 2 * math.exp(top) * math.fsum(math.exp(log - top) for log in logs))


def resampled(apart: Floats, groups: Ints | None = None, *, rounds: int = ROUNDS, seed: int = 0) -> Floats:
    """[rounds] the mean of `apart` [Q], or the mean of its groups' means, over queries drawn with replacement.

    Queries of equal difference and group are drawn together, which has the same distribution and takes less time.
    """
    own = np.zeros(len(apart), np.int64) if groups is None else groups
    cells, counts = np.unique(np.stack([own.astype(np.float64), apart]), axis=1, return_counts=True)
    starts = np.flatnonzero(np.diff(cells[0], prepend=np.nan))
    rng = np.random.default_rng(seed)
    step = max(1, SCORES_IN_MEMORY // cells.shape[1])
    means = []
    for start in range(0, rounds, step):
        drawn = rng.multinomial(len(apart), counts / len(apart), size=min(step, rounds - start)).astype(np.float64)
        size = np.add.reduceat(drawn, starts, axis=1)
        total = np.add.reduceat(drawn * cells[1], starts, axis=1)
        mean = np.divide(total, size, out=np.zeros(size.shape), where=size > 0)
        means.append(mean.sum(axis=1) / (size > 0).sum(axis=1))
    return np.concatenate(means)


def _mean(apart: Floats, groups: Ints | None) -> float:
    if groups is None:
        return float(apart.mean())
    return float(np.mean([apart[groups == group].mean() for group in np.unique(groups)]))


def two_sided(drawn: Floats) -> float:
    """p of a difference of 0 by `drawn` [R], resampled differences: twice the smaller share of them on either side.

    No resampling counts as one, so that p is never 0.
    """
    least = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(drawn) + 1))


def holm(ps: Sequence[float]) -> list[float]:
    """The p of each of several tests, corrected so that all together are wrong at most that often (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(ps)
    highest = 0.0
    for place, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = highest
    return corrected


def holm_levels(ps: Sequence[float], level: float = 0.05) -> list[float]:
    """For each of several tests the level at which its own interval agrees with `holm` at `level`.

    An interval that holds 1 - level of the resamplings is clear of 0 just where the corrected p is below `level`: the
    least p of m is held against level / m, the next against level / (m - 1), and from the first that fails on, all
    against the level that it failed.

    >>> holm_levels([0.04, 0.001, 0.03])
    [0.025, 0.016666666666666666, 0.025]
    """
    levels = [level] * len(ps)
    own, failed = level, False
    for place, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        if not failed:
            own = level / (len(ps) - place)
            failed = ps[i] >= own
        levels[i] = own
    return levels
