"""What the approximation costs: queries that are kept with an index, and how much of the exact answer it gives them.

Captions are asked against pictures, as people will: their vectors are distributed differently from those of pictures,
and an index that finds pictures by pictures may miss half of what a text should bring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.embeddings.blocks import first_caption
from eval.embeddings.store import EmbeddingStore, file_of
from eval.index import Ints, Vectors
from eval.search.parts import BLOCK, unit
from eval.search.spool import vectors_of

if TYPE_CHECKING:
    from vlp.models.release import Release

QUERIES = 256
K = 10
FALLEN = 0.02
"""A recall this much lower than when the index was built is worth a word"""


def kept_queries(release: Release, folder: Path, store: EmbeddingStore | None) -> tuple[NDArray[np.float32], str]:
    """At most QUERIES vectors [Q, D] to measure by, drawn evenly, and what they are of: captions, or pictures.

    Of the store's texts where it has some; else the captions of rows are embedded; pictures where there are none.
    """
    import pyarrow.parquet as pq

    said = [
        _first(text) for text in pq.read_table(folder / "rows.parquet", columns=["captions"])["captions"].to_pylist()
    ]
    captioned = np.flatnonzero([bool(text) for text in said])
    rng = np.random.default_rng(0)
    if not len(captioned):
        images = vectors_of(folder)
        drawn = rng.choice(len(images), min(QUERIES, len(images)), replace=False)
        return np.array(images[np.sort(drawn)]), "pictures"
    drawn = np.sort(rng.choice(captioned, min(QUERIES, len(captioned)), replace=False))
    if store is not None and all(file_of(store.folder, "text_emb", part).is_file() for part in store.parts):
        return _texts(store, drawn), "captions"
    return np.asarray(release.embed_texts([said[int(i)] for i in drawn]), np.float32), "captions"


def exact(vectors: NDArray[np.float32], live: Ints, queries: NDArray[np.float32], k: int = K) -> Ints:
    """[Q, K] the ids among `live` whose vectors are nearest to each query, best first; reads one block at a time."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(live), BLOCK):
        some = live[start : start + BLOCK]
        scores = np.concatenate([best, queries @ vectors[some].T], axis=1)
        both = np.concatenate([ids, np.broadcast_to(some, (len(queries), len(some)))], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(both, order, 1)
    return ids


def overlap(answers: Ints, truth: Ints) -> float:
    """Recall@K: the share of the exact answers that are among the answers; ids of -1 are none."""
    wanted = [set(row[row >= 0].tolist()) for row in truth]
    given = [len(want & set(row.tolist())) for want, row in zip(wanted, answers, strict=True)]
    return sum(given) / max(1, sum(map(len, wanted)))


def recall(index: Vectors, vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> float:
    """Recall@10 of an index for `queries` [Q, D], against exact search through the vectors of its rows."""
    return overlap(index.search(queries, K).ids, exact(vectors, index.live_ids(), queries))


def _texts(store: EmbeddingStore, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The vectors of these rows' captions; rows are counted through all parts, which come one after the other."""
    parts: list[NDArray[Any]] = []
    before = 0
    for part in store.parts:
        count = len(store.images(part))
        inside = rows[(rows >= before) & (rows < before + count)] - before
        if len(inside):
            parts.append(unit(store.texts(part)[inside], store.folder, part))
        before += count
    return np.concatenate(parts)


def _first(captions: str) -> str:
    try:
        table = json.loads(captions)
    except ValueError:
        return ""
    return first_caption({str(k): str(v) for k, v in table.items()}) if isinstance(table, dict) else ""


def said(measured: Mapping[str, Any]) -> list[str]:
    """Lines for a reader: the recall of an index now, and when it was built; nothing where it was not measured."""
    if "recall" not in measured:
        return []
    now, built = float(measured["recall"]), float(measured["built"])
    line = f"recall@{K} of {measured['queries']} {measured['of']}: {now:.3f} ({built:.3f} when it was built)"
    return [line] if now > built - FALLEN else [line, "it has fallen: `vlp index compact INDEX` trains it anew"]
