"""Evaluations, one kind a file. A task gives numbers, or measurements with all that makes them believable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from eval.embeddings.split import EmbeddedSplit
from eval.metrics.bootstrap import bootstrap
from eval.metrics.ranking import Ints, Relevant, chance_recall

if TYPE_CHECKING:
    from vlp.models.release import Release


@dataclass(frozen=True)
class Measured:
    """One metric, and what a reader needs to believe it."""

    value: float
    interval: tuple[float, float]  # bootstrap over queries, 95 %
    queries: int
    candidates: int
    chance: float  # what a random order would score


def measure_recall(ranks: Ints, relevant: Relevant, *, candidates: int, k: int, seed: int) -> Measured:
    """Recall@K (acc@K, when there is one right answer) of queries whose first relevant candidate stands at `ranks`."""
    hits = (ranks < k).astype(np.float64)
    return Measured(
        value=float(hits.mean()),
        interval=bootstrap(hits, seed=seed),
        queries=len(hits),
        candidates=candidates,
        chance=chance_recall(relevant.counts, candidates, k),
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """Base of all tasks. Called with a model, it gives the values by name; `measure` gives the measurements."""

    component_package: ClassVar[str] = "eval.tasks"

    data: str = ""
    """the shard set to evaluate on: a folder with a manifest, a glob, a brace range or bundled:NAME"""
    seed: int = 0
    """seed of the bootstrap"""

    @property
    def primary(self) -> str:
        """The metric that stands for the whole task, by the name it has in the result."""
        raise NotImplementedError

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """Every metric of the task, by name."""
        raise NotImplementedError

    def __call__(self, release: Release) -> dict[str, float]:
        """The values alone, on `data`: what a training run logs."""
        split = EmbeddedSplit(release, self.data, bar=False)  # training shows a bar of its own
        return {name: measured.value for name, measured in self.measure(split).items()}

    def settings(self) -> dict[str, Any]:
        """The fields, for the record."""
        return dict(vars(self))
