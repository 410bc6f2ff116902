"""Recall of each class, averaged: rare classes count as much as common ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics.ranking import Floats, Ints


def mean_per_class(hits: NDArray[Any], labels: Ints, weights: Floats | None = None) -> Floats:
    """[R] recall of each class, averaged over the classes present, so that rare classes count as much as common ones.

    hits: [Q] 0 or 1; labels: [Q]; weights: [R, Q] how often each resampling holds each query, None means once: R = 1.

    >>> mean_per_class(np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1]))
    array([0.5])
    """
    weights = np.ones((1, len(hits))) if weights is None else weights
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    right = np.add.reduceat(weights[:, order] * hits[order], starts, axis=1)
    recall = np.divide(right, size, out=np.zeros(size.shape), where=size > 0)
    return np.asarray(recall.sum(axis=1) / (size > 0).sum(axis=1))


def mean_per_class_reference(hits: NDArray[Any], labels: Ints) -> float:
    """The same for one sample of queries, class by class."""
    return float(np.mean([hits[labels == label].mean() for label in sorted(set(labels.tolist()))]))
