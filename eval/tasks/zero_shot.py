"""Zero-shot classification: each class is a text, and a picture belongs to the class whose text it is nearest to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.embeddings.split import EmbeddedSplit
from eval.metrics.bootstrap import bootstrap
from eval.metrics.per_class import mean_per_class
from eval.metrics.ranking import Relevant, first_relevant_rank
from eval.prompts.classifier import classifier
from eval.tasks import Measured, Task, measure_recall
from vlp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Task):
    """Accuracy at 1 and 5, and mean per-class recall, over the classes that a metadata field names."""

    label: str = "subgroup"
    """metadata field that holds a picture's class; pictures without it take no part"""
    templates: str = "picture"
    """set of templates: bare, picture, imagenet_7, imagenet_80"""

    @property
    def primary(self) -> str:
        """Accuracy at 1."""
        return f"{self.label}/acc1"

    def labels(self, split: EmbeddedSplit) -> list[str | None]:
        """(N,) the class of every picture, None where it has none."""
        values = (sample.metadata.get(self.label) for sample in split.samples)
        return [str(value) if value not in (None, "") else None for value in values]

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LABEL/acc1`, `LABEL/acc5` and `LABEL/mean_per_class_recall`; the classes are those that the split holds.

        Raises UserError if fewer than two classes are there.
        """
        names = self.labels(split)
        classes = sorted({name for name in names if name is not None})
        if len(classes) < 2:
            raise UserError(f'{split.spec} has {len(classes)} classes in the field "{self.label}"; two are needed')
        number = {name: i for i, name in enumerate(classes)}
        rows = np.array([i for i, name in enumerate(names) if name is not None])
        labels = np.array([number[name] for name in names if name is not None], np.int64)
        relevant = Relevant.from_pairs(np.arange(len(rows)), labels)
        ranks = first_relevant_rank(split.image[rows], classifier(split.release, classes, self.templates), relevant)
        found = {
            f"{self.label}/acc{k}": measure_recall(ranks, relevant, candidates=len(classes), k=k, seed=self.seed)
            for k in (1, 5)
        }
        hits = (ranks < 1).astype(np.float64)
        found[f"{self.label}/mean_per_class_recall"] = Measured(
            value=float(mean_per_class(hits, labels)[0]),
            interval=bootstrap(hits, labels, seed=self.seed),
            queries=len(rows),
            candidates=len(classes),
            chance=1 / len(classes),
        )
        return found
