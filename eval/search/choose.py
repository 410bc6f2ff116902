"""Which kind of index: candidates measured on a sample of the real vectors, asked by real captions, within limits.

It stands beside the search and not in eval/index, where every file is a kind; a kind says itself what of it is worth
measuring (`Index.choices`) and what is turned up to find more (`Index.efforts`).
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.index import Index, Ints, Vectors
from eval.index._centres import centres_of
from eval.search.fill import sample
from eval.search.recall import K, by_query, exact, overlap
from vlp.config import build, component, component_name, to_tree
from vlp.config.components import component_names
from vlp.errors import UserError

SAMPLE = 50_000  # vectors that candidates are measured on
SLOW_SAMPLE = 10_000  # the same, for kinds that are slow to build
BEATEN = 3  # what answers so many times fewer queries a second than what fits is not looked at further
SHOWN = 0.9  # but up to this recall, so that there is a curve to see
ASKED = 16  # queries that are asked one by one, for the latency
ENOUGH = 0.995  # a recall beyond which no more effort is measured
UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True)
class Budget:
    """Limits of an index; what is None is not limited."""

    memory: float | None = None  # bytes of the whole index
    recall: float | None = None  # the least recall@10 of the kept queries; None: 0.95
    latency_s: float | None = None  # seconds a query takes alone, on the threads that FAISS has

    def tree(self) -> dict[str, Any]:
        """For a file."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Candidate:
    """One kind with one effort, measured on the sample; speeds and bytes are told for all vectors."""

    kind: dict[str, Any]
    recall: float
    latency_s: float
    queries_per_s: float  # many at once
    bytes: float  # in memory
    fits: bool


@dataclass(frozen=True)
class Trial:
    """What candidates are measured on."""

    some: NDArray[np.float32]  # [n, D] a sample of the vectors
    queries: NDArray[np.float32]  # [Q, D]
    truth: Ints  # [Q, K] their nearest of the sample
    count: int  # of all vectors
    budget: Budget
    learned: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # centres of cells, by their number

    @classmethod
    def of(cls, vectors: NDArray[np.float32], queries: NDArray[np.float32], budget: Budget, most: int) -> Trial:
        """A trial on at most `most` of the vectors."""
        some = sample(vectors, most)
        return cls(some, queries, exact(some, np.arange(len(some)), queries), len(vectors), budget)

    def centres(self, cells: int) -> NDArray[np.float32] | None:
        """[cells, D] the centres of so many cells, learned once for all kinds; None for none."""
        if cells and cells not in self.learned:
            self.learned[cells] = centres_of(self.some, cells)
        return self.learned.get(cells)


def bytes_of(text: str) -> float:
    """Bytes of a size that somebody typed. Raises UserError.

    >>> bytes_of("2GB"), bytes_of("1.5 MiB")
    (2000000000.0, 1572864.0)
    """
    return _quantity(text, UNITS, "memory", "2GB")


def seconds_of(text: str) -> float:
    """Seconds of a time that somebody typed. Raises UserError.

    >>> seconds_of("5ms"), seconds_of("0.1s")
    (0.005, 0.1)
    """
    return _quantity(text, {"ms": 1e-3, "us": 1e-6, "s": 1.0}, "latency", "5ms")


def _quantity(text: str, units: dict[str, float] | dict[str, int], flag: str, example: str) -> float:
    word = text.strip().lower()
    number = word.rstrip("abcdefghijklmnopqrstuvwxyz").strip()
    try:
        value = float(number) * units[word[len(number) :].strip()]
    except (KeyError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"--{flag} is {text!r}, but it should be a number with a unit, such as {example}")
    return value


def choose(vectors: NDArray[np.float32], queries: NDArray[np.float32], budget: Budget) -> tuple[Index, list[Candidate]]:
    """The kind that answers fastest of those within the limits, for `vectors` [N, D]; and all that was measured.

    Raises UserError if none is, which says what came nearest.
    """
    count, dim = vectors.shape
    kinds = [one for name in component_names(Index) for one in component(Index, name)().choices(count, dim)]
    small = [one for one in kinds if one.size(count, dim) <= (budget.memory or math.inf)]
    if not small:
        least = min(kinds, key=lambda one: one.size(count, dim))
        raise UserError(_too_large(least, least.size(count, dim), budget))
    measured: list[Candidate] = []
    for slow in (False, True):
        some = [one for one in small if one.slow_to_build is slow]
        trial = Trial.of(vectors, queries, budget, SLOW_SAMPLE if slow else SAMPLE) if some else None
        for kind in some:
            bar = max((one.queries_per_s for one in measured if one.fits), default=0.0) / BEATEN
            measured += _measured(kind, trial, bar) if trial else []
    fitting = [one for one in measured if one.fits]
    if not fitting:
        raise UserError(_nearest(measured, budget))
    best = max(fitting, key=lambda one: (one.queries_per_s, -one.bytes))
    return build(Index, best.kind, "kind"), measured


def tuned(made: Vectors, queries: NDArray[np.float32], truth: Ints, budget: Budget) -> Vectors:
    """`made` with the effort that answers most queries a second with the recall, on all vectors; else with the most.

    truth: [Q, K] the exact answers. The recall is reached by these queries less 1.28 standard errors, so that nine in
    ten other sets of as many queries reach it, too; where nothing does, by these queries alone.
    """
    ladders = made.kind.ladders()
    for errors in (1.28, 0.0):

        def reaches(kind: Index, errors: float = errors) -> bool:
            return _reached(made, kind, queries, truth, errors) >= (budget.recall or 0.95)

        enough = [least for ladder in ladders if (least := _least(ladder, reaches)) is not None]
        if enough:
            made.kind = min(enough, key=lambda kind: _together(made, kind, queries))
            return made
    made.kind = max((ladder[-1] for ladder in ladders), key=lambda kind: _reached(made, kind, queries, truth, 0.0))
    return made


def _least(ladder: Sequence[Index], reaches: Callable[[Index], bool]) -> Index | None:
    """The first effort of a ladder that reaches what is asked, by halving; None where the last does not."""
    if not reaches(ladder[-1]):
        return None
    low, high = 0, len(ladder) - 1
    while low < high:
        middle = (low + high) // 2
        if reaches(ladder[middle]):
            high = middle
        else:
            low = middle + 1
    return ladder[low]


def _reached(made: Vectors, kind: Index, queries: NDArray[np.float32], truth: Ints, errors: float) -> float:
    """Recall with the settings of `kind`, less so many standard errors over the queries."""
    made.kind = kind
    each = by_query(made.search(queries, K).ids, truth)
    return float(each.mean() - errors * each.std() / math.sqrt(len(each)))


def _together(made: Vectors, kind: Index, queries: NDArray[np.float32]) -> float:
    """Seconds of all queries at once: the least of three times, since what else the machine does only adds to it."""
    made.kind = kind
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        made.search(queries, K)
        times.append(time.perf_counter() - begin)
    return min(times)


def _measured(kind: Index, trial: Trial, bar: float) -> Iterator[Candidate]:
    """Efforts of one kind, until more gains nothing or fewer than `bar` queries a second are answered.

    What does not fit these vectors is left out.
    """
    some, queries, budget = trial.some, trial.queries, trial.budget
    share = len(some) / trial.count
    try:
        # A sample has fewer cells, so that as many vectors lie in each share of them.
        cells = [one for one in type(kind)().choices(len(some), some.shape[1]) if _alike(one, kind)]
        small = cells[0] if cells else kind
        index = small.empty(some.shape[1])
        index.train(some, trial.centres(small.number_of_cells()))
        index.add(some, np.arange(len(some)), new=True)
    except UserError:
        return
    slower = 1 / share if component_name(kind, Index) in ("flat", "gpu_flat") else math.sqrt(1 / share)
    size = kind.size(trial.count, some.shape[1])
    for effort in small.efforts():
        index.kind = effort
        hits = index.search(queries, K)
        rate = len(queries) / _together(index, effort, queries) / slower
        latency = _alone(index, queries) * slower
        reached = overlap(hits.ids, trial.truth)
        whole = _with_effort(kind, effort)
        fits = reached >= (budget.recall or 0.95) and latency <= (budget.latency_s or math.inf)
        tree = {"name": component_name(whole, Index), **to_tree(whole)}
        yield Candidate(tree, reached, latency, rate, size, fits)
        bar = max(bar, rate / BEATEN if fits else 0.0)
        if reached >= max(ENOUGH, budget.recall or 0) or (rate < bar and reached > SHOWN):
            return


def _alike(one: Index, other: Index) -> bool:
    """Whether two differ in nothing but the number of cells."""
    own, others = to_tree(one), to_tree(other)
    return {k: v for k, v in own.items() if k != "cells"} == {k: v for k, v in others.items() if k != "cells"}


def _with_effort(kind: Index, effort: Index) -> Index:
    """`kind` with the settings of `effort`, but its own number of cells."""
    tree = to_tree(effort)
    return replace(kind, **{key: value for key, value in tree.items() if key != "cells"})


def _alone(index: Vectors, queries: NDArray[np.float32]) -> float:
    """Median seconds of a query that is asked alone."""
    times = []
    for query in queries[:ASKED]:
        begin = time.perf_counter()
        index.search(query[None], K)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _limits(budget: Budget) -> str:
    limits = []
    if budget.memory is not None:
        limits.append(f"{budget.memory / 1e6:,.1f} MB")
    limits.append(f"recall {budget.recall or 0.95}")
    if budget.latency_s is not None:
        limits.append(f"{budget.latency_s * 1e3:g} ms")
    return f"no index of these vectors keeps within {', '.join(limits)}"


def _too_large(least: Index, size: float, budget: Budget) -> str:
    name = component_name(least, Index)
    return f"{_limits(budget)}: the smallest, {name}, takes {size / 1e6:,.1f} MB; allow more memory"


def _nearest(measured: Sequence[Candidate], budget: Budget) -> str:
    best = max(measured, key=lambda one: one.recall)
    return (
        f"{_limits(budget)}: the nearest, {best.kind['name']}, reaches recall {best.recall:.3f} in "
        f"{best.latency_s * 1e3:.2f} ms and {best.bytes / 1e6:,.1f} MB; allow more of one of them"
    )


def as_json(measured: Sequence[Candidate]) -> str:
    """For frontier.json."""
    return json.dumps([asdict(one) for one in measured], indent=1) + "\n"
