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
from eval.search.row_file import RowFile
from eval.search.spool import vectors_of

if TYPE_CHECKING:
    from vlp.models.release import Release

QUERIES = 256
LOOKED_AT = 16  # times as many rows, for some that have captions
K = 10
FALLEN = 0.02
"""A recall this much lower than when the index was built is worth a word"""


def kept_queries(
    release: Release, folder: Path, store: EmbeddingStore | None, *, first: int = 0
) -> tuple[NDArray[np.float32], str]:
    """At most QUERIES vectors [Q, D] to measure by, drawn evenly, and what they are of: captions, or pictures.

    Of rows from `first` on. Of the store's texts where it has some (its first is row `first`); else the captions of
    rows are embedded; pictures where there are none.
    """
    images = vectors_of(folder)
    rng = np.random.default_rng(0)
    drawn = first + rng.permutation(len(images) - first)[: LOOKED_AT * QUERIES]
    said = {i: _first(row["captions"]) for i, row in RowFile(folder).at(np.sort(drawn), ["captions"])}
    captioned = np.sort(np.array([i for i in drawn.tolist() if said[i]][:QUERIES], np.int64))
    if not len(captioned):
        return np.array(images[np.sort(drawn[:QUERIES])]), "pictures"
    if store is not None and all(file_of(store.folder, "text_emb", part).is_file() for part in store.parts):
        return _texts(store, captioned - first), "captions"
    return np.asarray(release.embed_texts([said[int(i)] for i in captioned]), np.float32), "captions"


def grown_queries(
    before: NDArray[np.float32], of: str, more: tuple[NDArray[np.float32], str], added: float
) -> NDArray[np.float32]:
    """The queries of an index that has grown: `more` take the place of some in proportion to the share of rows `added`.

    So what is asked of the new pictures counts, too. Those that are of something else than `of` change nothing.
    """
    if more[1] != of:
        return before
    rng = np.random.default_rng(len(before))
    count = min(QUERIES, len(before) + len(more[0]))
    new = min(len(more[0]), max(round(added * count), count - len(before)))
    drawn = [rng.permutation(len(some))[:n] for some, n in ((before, count - new), (more[0], new))]
    return np.concatenate([before[np.sort(drawn[0])], more[0][np.sort(drawn[1])]])


def exact(vectors: NDArray[np.float32], live: Ints, queries: NDArray[np.float32], k: int = K) -> Ints:
    """[Q, K] the ids among `live` whose vectors are nearest to each query, best first; reads one block at a time."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(live), BLOCK):
        some = live[start : start + BLOCK]
        whole = some[-1] - some[0] == len(some) - 1  # rows that follow each other are not copied
        scores = queries @ (vectors[some[0] : some[-1] + 1] if whole else vectors[some]).T
        if len(some) > k:
            top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        else:
            top = np.broadcast_to(np.arange(len(some)), scores.shape)
        both = np.concatenate([best, np.take_along_axis(scores, top, 1)], axis=1)
        names = np.concatenate([ids, some[top]], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :k]
        best, ids = np.take_along_axis(both, order, 1), np.take_along_axis(names, order, 1)
    return ids


def by_query(answers: Ints, truth: Ints) -> NDArray[np.float64]:
    """[Q] recall@K of each query that has an exact answer."""
    there = (truth >= 0).sum(axis=1)
    given = ((answers[:, :, None] == truth[:, None, :]) & (truth >= 0)[:, None, :]).any(axis=1).sum(axis=1)
    return np.asarray(given[there > 0] / there[there > 0])


def overlap(answers: Ints, truth: Ints) -> float:
    """Recall@K: the share of the exact answers that are among the answers; ids of -1 are none."""
    there = (truth >= 0).sum(axis=1)
    some = by_query(answers, truth)
    return float((some * there[there > 0]).sum() / max(1, there.sum()))


def recall(
    index: Vectors, vectors: NDArray[np.float32], queries: NDArray[np.float32], truth: Ints | None = None
) -> float:
    """Recall@10 of an index for `queries` [Q, D], against exact search (`truth`) through the vectors of its rows."""
    truth = exact(vectors, index.live_ids(), queries) if truth is None else truth
    return overlap(index.search(queries, K).ids, truth)


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
    return [line, "it has fallen: `vlp index compact INDEX` trains it anew"] if fallen(measured) else [line]


def fallen(measured: Mapping[str, Any]) -> bool:
    """Whether the recall of an index is worth a word: lower than when it was built, by FALLEN or more."""
    return "recall" in measured and float(measured["recall"]) <= float(measured["built"]) - FALLEN
