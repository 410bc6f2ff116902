"""Which kind of index: candidates measured on a sample of the real vectors, asked by real captions, within limits.

It stands beside the search and not in eval/index, where every file is a kind; a kind says itself what of it is worth
measuring (`Index.choices`) and what is turned up to find more (`Index.efforts`).
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.index import Index, Ints, Vectors
from eval.search.fill import sample
from eval.search.recall import K, exact, overlap
from vlp.config import build, component, component_name, to_tree
from vlp.config.components import component_names
from vlp.errors import UserError

SAMPLE = 50_000  # vectors that candidates are measured on
ASKED = 32  # queries that are asked one by one, for the latency
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
    """One kind with one effort, measured on the sample; bytes and latency are for all vectors."""

    kind: dict[str, Any]
    recall: float
    latency_s: float
    queries_per_s: float  # many at once, on the sample
    bytes: float
    fits: bool


@dataclass(frozen=True)
class Trial:
    """What candidates are measured on."""

    some: NDArray[np.float32]  # [n, D] a sample of the vectors
    queries: NDArray[np.float32]  # [Q, D]
    truth: Ints  # [Q, K] their nearest of the sample
    count: int  # of all vectors
    budget: Budget


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
    some = sample(vectors, SAMPLE)
    trial = Trial(some, queries, exact(some, np.arange(len(some)), queries), len(vectors), budget)
    measured: list[Candidate] = []
    for name in component_names(Index):
        for kind in component(Index, name)().choices(len(vectors), vectors.shape[1]):
            measured += _measured(kind, trial)
    fitting = [one for one in measured if one.fits]
    if not fitting:
        raise UserError(_nearest(measured, budget))
    best = min(fitting, key=lambda one: (one.latency_s, one.bytes))
    return build(Index, best.kind, "kind"), measured


def tuned(made: Vectors, vectors: NDArray[np.float32], queries: NDArray[np.float32], budget: Budget) -> Vectors:
    """`made` with the least effort that reaches the recall on all vectors; with the most where none does."""
    truth = exact(vectors, made.live_ids(), queries)
    steps = []
    for kind in made.kind.efforts():
        made.kind = kind
        steps.append((overlap(made.search(queries, K).ids, truth), _alone(made, queries), kind))
    enough = [step for step in steps if step[0] >= (budget.recall or 0.95)]
    made.kind = min(enough, key=lambda step: step[1])[2] if enough else max(steps, key=lambda step: step[0])[2]
    return made


def _measured(kind: Index, trial: Trial) -> Iterator[Candidate]:
    """Every effort of one kind; what does not fit these vectors is left out."""
    some, queries, budget = trial.some, trial.queries, trial.budget
    share = len(some) / trial.count
    try:
        # A sample has fewer cells, so that as many vectors lie in each share of them.
        cells = [one for one in type(kind)().choices(len(some), some.shape[1]) if _alike(one, kind)]
        small = cells[0] if cells else kind
        index = small.empty(some.shape[1])
        index.train(some)
        index.add(some, np.arange(len(some)), new=True)
    except UserError:
        return
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index.faiss")
        size = (Path(folder) / "index.faiss").stat().st_size / share
    slower = 1 / share if component_name(kind, Index) in ("flat", "gpu_flat") else math.sqrt(1 / share)
    for effort in small.efforts():
        index.kind = effort
        latency = _alone(index, queries) * slower
        begin = time.perf_counter()
        hits = index.search(queries, K)
        rate = len(queries) / (time.perf_counter() - begin)
        reached = overlap(hits.ids, trial.truth)
        whole = _with_effort(kind, effort)
        fits = (
            reached >= (budget.recall or 0.95)
            and size <= (budget.memory or math.inf)
            and latency <= (budget.latency_s or math.inf)
        )
        tree = {"name": component_name(whole, Index), **to_tree(whole)}
        yield Candidate(tree, reached, latency, rate, size, fits)
        if reached >= ENOUGH:
            return  # more effort gains nothing


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


def _nearest(measured: Sequence[Candidate], budget: Budget) -> str:
    small = [one for one in measured if one.bytes <= (budget.memory or math.inf)]
    limits = []
    if budget.memory is not None:
        limits.append(f"{budget.memory / 1e6:,.1f} MB")
    limits.append(f"recall {budget.recall or 0.95}")
    if budget.latency_s is not None:
        limits.append(f"{budget.latency_s * 1e3:g} ms")
    asked = f"no index of these vectors keeps within {', '.join(limits)}"
    if not small:
        least = min(measured, key=lambda one: one.bytes)
        return f"{asked}: the smallest, {least.kind['name']}, takes {least.bytes / 1e6:,.1f} MB; allow more memory"
    best = max(small, key=lambda one: one.recall)
    return (
        f"{asked}: the nearest, {best.kind['name']}, reaches recall {best.recall:.3f} in {best.latency_s * 1e3:.2f} ms "
        f"and {best.bytes / 1e6:,.1f} MB; allow more of one of them"
    )


def as_json(measured: Sequence[Candidate]) -> str:
    """For frontier.json."""
    return json.dumps([asdict(one) for one in measured], indent=1) + "\n"
