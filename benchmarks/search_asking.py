"""What it costs to score hits again, to fold them, to classify a store: beside the search or the product alone.

    python -m benchmarks.search_asking --json benchmarks/results/search_asking.json

Vectors and queries are those of `benchmarks.search_vectors` (200,000 of width 512; captions ask, 256 of them, for the
10 best). `rerankN.recall` is recall@10 of an index of kind pq (64 bytes a vector) whose N best are scored again with
the vectors themselves, the peer that of its own scores; `rerankN.qps` are queries in one block, with and without.

`fold.qps` is exact search with near-identical hits folded (cosine 0.95), the peer without; `fold.looked_at` is how many
hits of a query are looked at for 10 different ones. `classify.rate` are vectors a second that get the five best of
1,000 classes with their probabilities, written as parquet; the peer is numpy's product and the largest of each row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record

COUNT, DIM, K, QUERIES, CLASSES = 200_000, 512, 10, 256, 1000
Floats = NDArray[np.float32]
Row = dict[str, Any]


def rows(quick: bool, rounds: int = 5) -> Iterator[Row]:
    """All cases; `quick`: few vectors and one round."""
    from benchmarks.search_vectors import vectors
    from eval.index.flat import Flat
    from eval.index.pq import Pq

    pictures, texts = vectors(20_000 if quick else COUNT, DIM)
    queries, rounds = np.ascontiguousarray(texts[:QUERIES]), 1 if quick else rounds
    yield from rerank_rows(indexed(Pq(pieces=64), pictures), pictures, queries, rounds)
    yield from fold_rows(indexed(Flat(), pictures), pictures, queries, rounds)
    yield from classify_rows(pictures, np.ascontiguousarray(texts[-CLASSES:]), rounds)


def indexed(kind: Any, pictures: Floats) -> Any:
    """An index of the pictures."""
    from eval.search.fill import filled

    with tempfile.TemporaryDirectory() as folder:
        return filled(kind, Path(folder), pictures)


def rerank_rows(index: Any, pictures: Floats, queries: Floats, rounds: int) -> Iterator[Row]:
    """Recall and rate of hits that are scored again."""
    from eval.search.recall import exact, overlap
    from eval.search.refine import Refining, refined

    truth = exact(pictures, np.arange(len(pictures)), queries, K)

    def best(rerank: int) -> Any:
        return np.stack([r.ids for r in refined(index.search, pictures, queries, K, Refining(rerank=rerank))])

    for rerank in (10, 100, 1000):
        case = f"rerank{rerank}"
        recalls = overlap(best(rerank), truth), overlap(best(0), truth)
        yield record.row(f"{case}.recall", "recall@10", [recalls[0]], [recalls[1]], "the index's own scores")
        sides = record.in_turn((partial(best, rerank), partial(best, 0)), len(queries), rounds)
        yield record.row(f"{case}.qps", "queries/s", *sides, "the index's own scores")


def fold_rows(index: Any, pictures: Floats, queries: Floats, rounds: int) -> Iterator[Row]:
    """Rate of a search whose near-identical hits are folded."""
    from eval.search.refine import FOLD, Refining, refined

    def best(fold: float | None) -> Any:
        return refined(index.search, pictures, queries, K, Refining(fold=fold))

    sides = record.in_turn((partial(best, FOLD), partial(best, None)), len(queries), rounds)
    yield record.row("fold.qps", "queries/s", *sides, "the same search, nothing folded")
    looked_at = [len(one.ids) + sum(len(ids) for _, ids in one.alike) for one in best(FOLD)]
    yield record.row("fold.looked_at", "hits", [float(np.mean(looked_at))])


def classify_rows(pictures: Floats, classes: Floats, rounds: int) -> Iterator[Row]:
    """Rate of a classification that is written."""
    import pyarrow as pa

    from eval.search.classify import Classifier, classify

    classifier = Classifier(tuple(f"class {i}" for i in range(len(classes))), classes, 100.0)
    blocks = [
        (start, np.array(pictures[start : start + 16384])) for start in range(0, min(len(pictures), 65_536), 16384)
    ]
    count = sum(len(some) for _, some in blocks)

    def stream() -> Iterator[Any]:
        for start, some in blocks:
            ids = range(start, start + len(some))
            yield pa.table({"key": [str(i) for i in ids], "shard": [""] * len(some), "id": list(ids)}), some

    with tempfile.TemporaryDirectory() as folder:
        ours = partial(classify, classifier, count)
        sides = (
            lambda: ours(stream(), Path(folder) / "c.parquet"),
            lambda: [(b @ classes.T).argmax(1) for _, b in blocks],
        )
        yield record.row(
            "classify.rate", "vectors/s", *record.in_turn(sides, count, rounds), "numpy: product and argmax alone"
        )


if __name__ == "__main__":
    record.main_of_faiss(__doc__, rows, "pyarrow")
