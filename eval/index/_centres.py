"""k-means on the sphere: centres of unit vectors, for whoever sorts vectors into clusters."""

from __future__ import annotations

import numpy as np

from eval.index import Floats

MOST_POINTS = 1 << 30  # FAISS would draw a sample of its own from more points than this for each centre


def centres(points: Floats, count: int, *, iterations: int, seed: int) -> Floats:
    """[count, D] centres of unit norm of `points` [N, D]; the same points in the same order give the same centres."""
    import faiss

    points = np.ascontiguousarray(points, np.float32)
    if count >= len(points):
        return points
    means = faiss.Kmeans(
        points.shape[1],
        count,
        niter=iterations,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=MOST_POINTS // count,
    )
    means.train(points)
    return np.asarray(means.centroids, np.float32)
