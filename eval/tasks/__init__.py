"""Evaluations, one kind a file. A task gives numbers, or measurements with all that makes them believable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from eval.embeddings.split import EmbeddedSplit, Split
from eval.metrics.bootstrap import bootstrap
from eval.metrics.per_class import mean_per_class
from eval.metrics.ranking import Ints, Relevant, chance_recall

if TYPE_CHECKING:
    from vlp.models.release import Release


@dataclass(frozen=True)
class Presentation:
    """How a report shows a metric; the report itself knows no task and takes everything from here."""

    label: tuple[str, ...]
    """what was measured, in words, such as ("English", "picture → caption"); metrics of equal label share a row"""
    measure: str
    """how, in a word: the column, such as "R@1" """
    explains: str = ""
    """a sentence that says what the measure counts"""
    headline: str = ""
    """a sentence for newcomers with {value} and {candidates}; "" where the metric is not for a headline"""
    primary: bool = False
    """whether it stands for its row: it is drawn over the course of a training"""


@dataclass(frozen=True)
class Measured:
    """One metric, and what a reader needs to believe it."""

    value: float
    interval: tuple[float, float]  # bootstrap over queries, 95 %
    queries: int
    candidates: int
    chance: float | None  # what a random order would score; None where there is no such thing
    presentation: Presentation
    unit: Literal["share", "score", "count"] = "share"
    """share: a part of 1, shown in percent; score: a number of no fixed range; count: a number of things"""
    better: Literal["higher", "lower"] = "higher"
    per_query: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    """[Q] the value of each query, of which `value` is the mean; None where it is no mean over queries"""
    queries_by: tuple[str, ...] | None = field(default=None, repr=False)
    """[Q] a key of each query that another model's measurement on the same data has too; no two are equal"""
    groups: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
    """[Q] the group of each query where `value` is the mean of the groups' means, as mean per class is; else None"""
    detail: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """all that a page or a comparison shows besides, as JSON has it: `classes`, `labels`, `predicted`, `bins`, ..."""


def mean_of(
    values: NDArray[Any], keys: tuple[str, ...], *, candidates: int, chance: float | None, seed: int, **rest: Any
) -> Measured:
    """The mean of `values` [Q] over the queries `keys` [Q], with its bootstrap interval; `rest`: Measured's fields.

    With `groups` [Q] it is the mean of the groups' means.
    """
    values = values.astype(np.float64)
    groups: Ints | None = rest.get("groups")
    return Measured(
        value=float(values.mean() if groups is None else mean_per_class(values, groups)[0]),
        interval=bootstrap(values, groups, seed=seed),
        queries=len(values),
        candidates=candidates,
        chance=chance,
        per_query=values,
        queries_by=keys,
        **rest,
    )


def measure_recall(ranks: Ints, relevant: Relevant, *, k: int, keys: tuple[str, ...], **rest: Any) -> Measured:
    """Recall@K (acc@K, when there is one right answer) of queries whose first relevant candidate stands at `ranks`.

    rest: candidates, seed and presentation, as of `mean_of`.
    """
    chance = chance_recall(relevant.counts, rest["candidates"], k)
    return mean_of(ranks < k, keys, chance=chance, **rest)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Base of all tasks. Called with a model, it gives the values by name; `measure` gives the measurements."""

    component_package: ClassVar[str] = "eval.tasks"

    data: str = ""
    """the shard set to evaluate on, as everywhere; empty: every shard set of the evaluation"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of the bootstrap"""

    @property
    def primary(self) -> str:
        """The metric that stands for the whole task, by the name it has in the result."""
        raise NotImplementedError

    def unfit(self, split: Split) -> str:
        """Why a split has nothing for the task, such as "it has no captions"; "" if it has something.

        Raises UserError if it lacks what was asked for by name: only a default is left out.
        """
        raise NotImplementedError

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """Every metric of the task, by name, on a split that is not unfit. Raises UserError as `unfit` does."""
        raise NotImplementedError

    def __call__(self, release: Release) -> dict[str, float]:
        """The values alone, on `data`."""
        split = EmbeddedSplit(release, self.data, bar=False)
        return {name: measured.value for name, measured in self.measure(split).items()}

    def settings(self) -> dict[str, Any]:
        """The fields, for the record."""
        return dict(vars(self))
