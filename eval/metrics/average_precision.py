"""Average precision of each class over all pictures, for pictures that have several classes (mAP)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.graded import average_precision
from eval.metrics.ranking import Floats, Ints, Relevant


def average_precision_per_class(image: Floats, classes: Floats, rows: Ints, labels: Ints) -> Floats:
    """[C] for each class, the mean over its pictures of the precision at each one's rank; mAP is the mean over classes.

    image: [N, D]; classes: [C, D]; picture rows[p] has class labels[p]. A class that no picture has scores 0, as in
    clip-benchmark and scikit-learn. Where scores differ all three agree; equal scores are ranked pessimistically here.

    Two pictures, which have the classes 0 and 0, 1; class 2 has none. The first picture is nearest to every class:

    >>> nearest_first = np.array([[1.0], [0.5]])
    >>> average_precision_per_class(nearest_first, np.ones((3, 1)), np.array([0, 1, 1]), np.array([0, 0, 1]))
    array([1. , 0.5, 0. ])
    """
    result = np.zeros(len(classes))
    there, query = np.unique(labels, return_inverse=True)
    result[there] = average_precision(classes[there], image, Relevant.from_pairs(query, rows))
    return result


def average_precision_reference(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """That of one class, by scores [N] and whether each picture has it [N], as clip-benchmark computes it."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], bool(truth[i])))
    hits, precisions = 0, []
    for rank, i in enumerate(order, start=1):
        if truth[i]:
            hits += 1
            precisions.append(hits / rank)
    return float(np.mean(precisions)) if precisions else 0.0
