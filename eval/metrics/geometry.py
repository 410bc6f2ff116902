"""The shape of embeddings on the sphere: alignment, uniformity, modality gap, effective rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eval.metrics.ranking import SCORES_IN_MEMORY, Floats, Ints

T = 2.0  # of uniformity, as Wang and Isola use it
Z_95 = 1.959964


def alignment(image: Floats, text: Floats) -> Floats:
    """[P] squared distance of each picture from its text (Wang and Isola 2020, with alpha = 2): smaller is better.

    >>> alignment(np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]]))
    array([0., 2.])
    """
    return np.asarray(((image.astype(np.float64) - text) ** 2).sum(axis=1))


def gaussian_sums(vectors: Floats, groups: Ints, count: int) -> Floats:
    """[G, G] sum of exp(-T |x - y|²) over the ordered pairs of two unit vectors, one in each group, no vector twice.

    vectors: [N, D] unit norm; groups: [N] numbers below `count`. Memory is bounded for any N.
    """
    sums = np.zeros((count, count))
    step = max(1, SCORES_IN_MEMORY // len(vectors))
    member = np.zeros((len(vectors), count))
    member[np.arange(len(vectors)), groups] = 1
    for start in range(0, len(vectors), step):
        rows = np.arange(start, min(start + step, len(vectors)))
        kernel = np.exp(-2 * T * np.maximum(0, 1 - vectors[rows].astype(np.float64) @ vectors.T))
        kernel[rows - start, rows] = 0
        sums += member[rows].T @ (kernel @ member)
    return sums


def uniformity_of_sums(sums: Floats, sizes: Ints) -> float:
    """Log of the mean over pairs, from what `gaussian_sums` gives for groups of these sizes."""
    n = sizes.sum()
    return float(np.log(sums.sum() / (n * (n - 1))))


def uniformity(vectors: Floats) -> float:
    """Log of the mean of exp(-2 |x - y|²) over pairs of different vectors (Wang and Isola 2020): smaller is better.

    Opposite vectors are at squared distance 4, all others here at 2: the log of (e^-8 + 2 e^-4) / 3.

    >>> square = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(uniformity(square), 6), round(float(np.log((np.exp(-8) + 2 * np.exp(-4)) / 3)), 6)
    (-4.396349, -4.396349)
    """
    return uniformity_of_sums(gaussian_sums(vectors, np.zeros(len(vectors), np.int64), 1), np.array([len(vectors)]))


def modality_gap(image: Floats, text: Floats) -> float:
    """Distance of the mean of the pictures from the mean of the texts (Liang et al. 2022).

    >>> round(modality_gap(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[-1.0, 0.0]])), 4)
    1.5811
    """
    return float(np.linalg.norm(image.mean(axis=0, dtype=np.float64) - text.mean(axis=0, dtype=np.float64)))


def effective_rank(gram: Floats) -> float:
    """exp of the entropy of the singular values, made to sum to 1 (Roy and Vetterli 2007).

    gram: [D, D], the product of the vectors' matrix [N, D] with itself; singular values are the roots of its
    eigenvalues.

    >>> round(effective_rank(np.eye(3)), 6), round(effective_rank(np.diag([1.0, 0.0, 0.0])), 6)
    (3.0, 1.0)
    """
    values = np.sqrt(np.maximum(0, np.linalg.eigvalsh(gram)))
    share = values / values.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def jackknife(statistic: Callable[[Ints], float], groups: int) -> tuple[float, float]:
    """The value of a statistic with its 95 % interval, as (low, high), by leaving out one of `groups` at a time.

    statistic: the numbers of the groups that are taken -> its value. For statistics that are no means over queries and
    cost too much to bootstrap (Shao and Wu 1989, the delete-a-group jackknife).
    """
    every = np.arange(groups)
    value = statistic(every)
    left = np.array([statistic(np.delete(every, group)) for group in every])
    error = float(np.sqrt((groups - 1) / groups * ((left - left.mean()) ** 2).sum()))
    return value - Z_95 * error, value + Z_95 * error
