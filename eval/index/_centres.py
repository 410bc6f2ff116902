"""k-means on the sphere: centres of unit vectors, of the cells of an index or of clusters."""

from __future__ import annotations

import numpy as np

from eval.index._faiss import Floats

ROUNDS = 10  # for the cells of an index
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


def thinned(vectors: Floats, most: int) -> Floats:
    """Every n-th of the vectors [N, D], so that there are at most `most`."""
    return np.ascontiguousarray(vectors[:: -(-len(vectors) // most)])


def centres_of(vectors: Floats, count: int) -> Floats:
    """[count, D] centres of cells, by k-means on the sphere: with inner product none may win by its length."""
    import faiss

    learned = faiss.Clustering(vectors.shape[1], count)
    learned.niter, learned.spherical, learned.min_points_per_centroid = ROUNDS, True, 1
    learned.train(vectors, faiss.IndexFlatIP(vectors.shape[1]))
    return np.array(faiss.vector_to_array(learned.centroids).reshape(count, -1))
