"""Evaluations, one kind a file. A task gives numbers, or measurements with all that makes them believable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eval.embed import embedded_pictures
from eval.metrics import Ints, Relevant, bootstrap, chance_recall
from vlp.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.sample import Sample
    from data_pipelines.shard_set import ShardSet
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


class EmbeddedSplit:
    """The pictures of a shard set as one model sees them; embedded once, however many tasks ask."""

    def __init__(self, release: Release, spec: str, *, bar: bool = True) -> None:
        from data_pipelines.ledger import Ledger
        from data_pipelines.shard_set import ShardSet

        self.release = release
        self.spec = spec
        self.shards: ShardSet = ShardSet.open(spec)
        self.samples: list[Sample] = []
        self.skipped = Ledger()
        parts: list[NDArray[np.float32]] = []
        for _, samples, vectors in embedded_pictures(
            release, self.shards, self.skipped, what=f"embedding {Path(spec).name}", bar=bar
        ):
            self.samples += samples
            parts.append(vectors)
        if not parts:
            raise UserError(f"{spec} has no readable picture to evaluate; check it with: vlp shards verify {spec}")
        self.image = np.concatenate(parts)  # [N, D], unit norm

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Every language that captions come in, most frequent first."""
        found: dict[str, int] = {}
        for sample in self.samples:
            for language in sample.captions:
                found[language] = found.get(language, 0) + 1
        return tuple(sorted(found, key=lambda language: (-found[language], language)))


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
