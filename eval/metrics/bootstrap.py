"""How sure a number is: percentile bootstrap over queries."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.per_class import mean_per_class
from eval.metrics.ranking import SCORES_IN_MEMORY, Floats, Ints


def interval(statistics: Floats, level: float = 0.95) -> tuple[float, float]:
    """The bounds that hold the middle `level` of the bootstrap statistics [R] (percentile method, Efron 1979).

    >>> interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(
    values: NDArray[Any], labels: Ints | None = None, *, rounds: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """The bootstrap interval of the mean of `values` [Q], or with `labels` [Q] of their mean per class.

    Queries are what is resampled, with replacement; how often each value of each class is drawn is multinomial, so
    equal queries are drawn together. Equal arguments give equal intervals.

    >>> low, high = bootstrap(np.array([0.0, 1.0] * 200))
    >>> 0.44 < low < 0.5 < high < 0.56
    True
    """
    given = [values.astype(np.float64)] if labels is None else [labels.astype(np.float64), values.astype(np.float64)]
    cells, counts = np.unique(np.stack(given), axis=1, return_counts=True)  # equal queries are drawn together
    value, label = cells[-1], None if labels is None else cells[0].astype(np.int64)
    rng, queries, step = np.random.default_rng(seed), len(values), max(1, SCORES_IN_MEMORY // len(counts))
    statistics = []
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        drawn: Floats = rng.multinomial(queries, counts / queries, size=size).astype(np.float64)
        statistics.append(drawn @ value / queries if label is None else mean_per_class(value, label, drawn))
    return interval(np.concatenate(statistics), level)


def ratio_interval(
    above: NDArray[Any], below: NDArray[Any], *, rounds: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """The bootstrap interval of the mean of `above` [Q] divided by that of `below` [Q], over the same queries.

    >>> ratio_interval(np.array([0.5, 1.0] * 50), np.array([1.0, 2.0] * 50))
    (0.5, 0.5)
    """
    queries = len(above)
    rng = np.random.default_rng(seed)
    both = np.stack([above, below], axis=1).astype(np.float64)
    step = max(1, SCORES_IN_MEMORY // queries)
    ratios = []
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        sums = rng.multinomial(queries, np.full(queries, 1 / queries), size=size).astype(np.float64) @ both
        ratios.append(np.divide(sums[:, 0], sums[:, 1], out=np.zeros(size), where=sums[:, 1] != 0))
    return interval(np.concatenate(ratios), level)
