"""Accuracy of a classification, whoever made it: at 1, at 5, and as the mean of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.ranking import Floats, Ints
from eval.tasks import Measured, Presentation, mean_of

KS = (1, 5)


@dataclass(frozen=True)
class Classified:
    """Pictures with their class, and how a model ranks the classes for each."""

    classes: tuple[str, ...]
    keys: tuple[str, ...]  # [Q] of the pictures
    labels: Ints  # [Q] class of each
    ranks: Ints  # [Q] rank of its class, from 0
    predicted: Ints  # [Q] the class that comes first

    @classmethod
    def by_scores(cls, classes: tuple[str, ...], keys: tuple[str, ...], labels: Ints, scores: Floats) -> Classified:
        """From scores [Q, C]. Classes of equal score count against the model: the right one comes last of them.

        >>> one = Classified.by_scores(("a", "b"), ("x", "y"), np.array([0, 1]), np.array([[1.0, 1.0], [0.0, 1.0]]))
        >>> one.ranks, one.predicted
        (array([1, 0]), array([1, 1]))
        """
        rows = np.arange(len(labels))
        own = scores[rows, labels]
        others = scores.copy()
        others[rows, labels] = -np.inf
        ranks = (others >= own[:, None]).sum(axis=1)
        return cls(classes, keys, labels, ranks, np.where(ranks == 0, labels, others.argmax(axis=1)))

    def measured(self, name: str, label: tuple[str, ...], *, seed: int, headline: str = "") -> dict[str, Measured]:
        """`NAME/acc1`, `NAME/acc5` (of five classes and more) and `NAME/mean_per_class_recall`.

        label: what was measured, as reports say it. acc1 has in its detail what a confusion matrix needs.
        """
        count = len(self.classes)
        confusion = {
            "classes": list(self.classes),
            "labels": self.labels.tolist(),
            "predicted": self.predicted.tolist(),
        }
        result = {
            f"{name}/acc{k}": mean_of(
                self.ranks < k,
                self.keys,
                candidates=count,
                chance=k / count,
                seed=seed,
                presentation=accuracy_words(label, k, headline if k == 1 else ""),
                detail=confusion if k == 1 else {},
            )
            for k in KS
            if k <= count
        }
        result[f"{name}/mean_per_class_recall"] = mean_of(
            self.ranks < 1,
            self.keys,
            candidates=count,
            chance=1 / count,
            seed=seed,
            groups=self.labels,
            presentation=Presentation(label, "per class", "Per class: acc@1 of each class, averaged over the classes."),
        )
        return result


def accuracy_words(label: tuple[str, ...], k: int, headline: str = "") -> Presentation:
    """How a report shows acc@K."""
    return Presentation(
        label=label,
        measure=f"acc@{k}",
        explains="acc@K: the share of pictures whose class is among the K that the model ranks first.",
        headline=headline,
        primary=k == 1,
    )


def by_class(labels: Ints, hits: Floats, classes: Sequence[str]) -> dict[str, float]:
    """class -> share of its pictures that are right, for the classes that have pictures.

    >>> by_class(np.array([0, 0, 2]), np.array([1.0, 0.0, 1.0]), ["a", "b", "c"])
    {'a': 0.5, 'c': 1.0}
    """
    return {classes[label]: float(hits[labels == label].mean()) for label in np.unique(labels)}
