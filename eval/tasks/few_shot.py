"""Few-shot classification: a linear classifier learned from a few pictures of each class, several times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.classified import Classified, accuracy_words
from eval.embeddings.split import EmbeddedSplit
from eval.metrics.bootstrap import interval
from eval.metrics.logistic import fit
from eval.metrics.ranking import SCORES_IN_MEMORY, Floats, Ints
from eval.probing import Features, Probe
from eval.tasks import Measured
from vlp.config.bounds import Count, Positive
from vlp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FewShot(Probe):
    """Mean accuracy over several draws of `shots` pictures a class to learn from."""

    shots: tuple[Count, ...] = (1, 4, 16)
    """pictures of each class to learn from; a class that has fewer gives all"""
    draws: Count = 5
    """how often such pictures are drawn, each time with another seed"""
    c: Positive = 31.6
    """inverse of the regularisation, as scikit-learn's C: CLIP's 0.316 on features of norm 10, for those of norm 1"""

    @property
    def primary(self) -> str:
        """Accuracy with the fewest pictures."""
        return f"{super().primary}@{min(self.shots)}"

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`few_shot/LABEL/acc1@SHOTS`; in the detail the accuracy of each draw.

        The interval is of both: which pictures are drawn, and which are tested. Raises UserError if there are not two
        classes, or nothing to learn from.
        """
        classes, train, test = self.parts(split)
        if len(np.unique(train.labels)) < 2:
            raise UserError(f"{split.spec} has pictures to learn from of one class alone, and two are needed")
        result: dict[str, Measured] = {}
        for shots in self.shots:
            hits = np.stack([self._hits(train, test, classes, shots, seed) for seed in range(self.draws)])
            each = hits.mean(axis=1)
            result[f"{self.name(self.field(split))}/acc1@{shots}"] = Measured(
                value=float(hits.mean()),
                interval=two_way_interval(hits, seed=self.seed),
                queries=len(test.keys),
                candidates=len(classes),
                chance=1 / len(classes),
                presentation=accuracy_words((*self.words(split), f"{shots} a class"), 1),
                per_query=hits.mean(axis=0),
                queries_by=test.keys,
                detail={"draws": each.tolist(), "deviation": float(each.std(ddof=1)) if len(each) > 1 else 0.0},
            )
        return result

    def _hits(self, train: Features, test: Features, classes: tuple[str, ...], shots: int, seed: int) -> Floats:
        """[Q] 1 where a test picture is classified right, learned from one draw."""
        some = train.rows(draw(train.labels, shots, seed))
        scores = fit(some.vectors, some.labels, classes=len(classes), c=self.c).scores(test.vectors)
        return (Classified.by_scores(classes, test.keys, test.labels, scores).ranks < 1).astype(np.float64)


def draw(labels: Ints, shots: int, seed: int) -> Ints:
    """Numbers of `shots` pictures of each class, ascending, or of all where there are fewer.

    >>> labels = np.array([0, 1, 0, 1, 1, 2])
    >>> sorted(labels[draw(labels, 2, 0)].tolist())
    [0, 0, 1, 1, 2]
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    by_label = order[np.argsort(labels[order], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[by_label], prepend=-1))
    place = np.arange(len(labels)) - np.repeat(starts, np.diff([*starts, len(labels)]))
    return np.sort(by_label[place < shots])


def two_way_interval(values: Floats, *, rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of values [S, Q] in which rows and columns are both resampled.

    >>> low, high = two_way_interval(np.tile([0.0, 1.0], (3, 200)))
    >>> 0.44 < low < 0.5 < high < 0.56
    True
    """
    draws, queries = values.shape
    rng = np.random.default_rng(seed)
    step = max(1, SCORES_IN_MEMORY // queries)
    means = []
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        rows = rng.multinomial(draws, np.full(draws, 1 / draws), size=size) / draws
        columns = rng.multinomial(queries, np.full(queries, 1 / queries), size=size) / queries
        means.append(((rows @ values) * columns).sum(axis=1))
    return interval(np.concatenate(means))
