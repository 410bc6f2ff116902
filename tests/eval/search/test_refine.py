"""Hits that are scored again and folded, against brute force in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.embeddings.store import EmbeddingStore
from eval.index import Hits, Index
from eval.index.flat import Flat
from eval.index.hnsw import Hnsw
from eval.index.ivf import Ivf
from eval.index.pq import Pq
from eval.search import refine
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from eval.search.refine import Refining, refined
from vlp.errors import UserError
from vlp.models.release import Release

COUNT, DIM, ALIKE = 600, 32, 0.9


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> Any:
    """[600, 32] vectors in families: of some there is one alone, of one there are 150 that are nearly the same."""
    rng = np.random.default_rng(0)
    sizes = [150, *rng.integers(1, 9, 200)]
    centres = unit(rng.normal(size=(len(sizes), DIM)))
    families = np.repeat(centres, sizes, axis=0)[:COUNT]
    return unit(families + 0.04 * rng.normal(size=families.shape))[rng.permutation(COUNT)]


@pytest.fixture(scope="module")
def queries(vectors: Any) -> Any:
    rng = np.random.default_rng(1)
    return unit(np.concatenate([vectors[:20] + 0.1 * rng.normal(size=(20, DIM)), rng.normal(size=(20, DIM))]))


def by_hand(scores: Any, vectors: Any, k: int, fold: float) -> list[list[int]]:
    """The K best ids that are no fold of a better one, each followed by those that it stands for."""
    groups: list[list[int]] = []
    for one in np.argsort(-scores, kind="stable"):
        mine = next((group for group in groups if vectors[group[0]] @ vectors[one] >= fold), None)
        if mine is not None:
            mine.append(int(one))
        elif len(groups) == k:
            break
        else:
            groups.append([int(one)])
    return groups


@pytest.mark.parametrize("k", [1, 7, 400])
def test_folded_hits_are_those_of_brute_force(
    vectors: Any, queries: Any, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    index = _made(Flat(), vectors)
    queries = queries[:: 1 if k < 10 else 10]
    want = [by_hand(scores, vectors, k, ALIKE) for scores in queries @ vectors.T]
    assert max(len(group) for groups in want for group in groups) >= 100
    for numbers in (refine.NUMBERS, 50 * DIM):  # also where memory holds 50 vectors
        monkeypatch.setattr(refine, "NUMBERS", numbers)
        got = refined(index.search, vectors, queries, k, Refining(fold=ALIKE))
        assert [[[i, *a.tolist()] for i, (_, a) in zip(r.ids.tolist(), r.alike, strict=True)] for r in got] == want
        for query, one in zip(queries, got, strict=True):
            assert np.allclose(one.scores, vectors[one.ids] @ query, atol=1e-5)
            for scores, ids in one.alike:
                assert np.allclose(scores, vectors[ids] @ query, atol=1e-5)


def _made(kind: Index, vectors: Any) -> Any:
    index = kind.empty(vectors.shape[1])
    index.train(vectors)
    index.add(vectors, np.arange(len(vectors)))
    return index


def test_hits_that_are_looked_at_have_a_limit(vectors: Any, queries: Any) -> None:
    index, seen = _made(Flat(), vectors), []

    def search(some: Any, count: int) -> Hits:
        seen.append(count)
        return index.search(some, count)

    (one,) = refined(search, vectors, vectors[:1], 5, Refining(fold=-1.0, most=40))
    assert (len(one.ids), len(one.alike[0][1]), max(seen)) == (1, 39, 40)
    (one,) = refined(search, vectors, vectors[:1], 5, Refining(fold=-1.0))
    assert len(one.alike[0][1]) == COUNT - 1


@pytest.mark.parametrize("kind", [Pq(pieces=4), Ivf(cells=8, probes=8, codes="int8")])
def test_all_scored_again_is_exact_search_and_fewer_come_nearer_to_it(vectors: Any, queries: Any, kind: Index) -> None:
    index, exact = _made(kind, vectors), _made(Flat(), vectors).search(queries, 10)
    whole = refined(index.search, vectors, queries, 10, Refining(rerank=COUNT))
    assert [one.ids.tolist() for one in whole] == exact.ids.tolist()
    assert np.allclose([one.scores for one in whole], exact.scores, atol=1e-5)

    def recall(rerank: int) -> float:
        got = refined(index.search, vectors, queries, 10, Refining(rerank=rerank))
        return float(np.mean([len({*a.ids.tolist()} & {*b.tolist()}) for a, b in zip(got, exact.ids, strict=True)]))

    assert recall(0) == recall(10) < recall(40) <= recall(200) <= recall(COUNT) == 10


def test_scores_that_are_estimates_are_made_exact_unless_forbidden(
    release: Release, vectors: Any, tmp_path: Path
) -> None:
    gallery = stored(release, vectors, tmp_path, Pq(pieces=4))
    for hits in (gallery.search(release, vectors[:5], 9), gallery.search(release, vectors[:5], 9, rerank=COUNT)):
        for query, some in zip(vectors, hits, strict=False):
            exact = [float(vectors[int(hit.key)] @ query) for hit in some]
            assert [hit.score for hit in some] == pytest.approx(exact, abs=1e-5)
            assert exact == sorted(exact, reverse=True)
    rough = gallery.search(release, vectors[:1], 9, rerank=0)[0]
    assert max(abs(hit.score - vectors[int(hit.key)] @ vectors[0]) for hit in rough) > 0.01
    folded = gallery.search(release, vectors[:3], 4, fold=ALIKE, rerank=COUNT)
    for query, some in zip(vectors, folded, strict=False):
        got = [[int(hit.key), *(int(one.key) for one in hit.alike)] for hit in some]
        assert got == by_hand(vectors @ query, vectors, 4, ALIKE)


def test_kinds_say_whether_their_scores_are_exact() -> None:
    assert [kind.exact_scores for kind in (Flat(), Hnsw(), Ivf(), Ivf(codes="int8"), Pq())] == [True] * 3 + [False] * 2


def test_settings_out_of_bounds_are_one_sentence(release: Release, vectors: Any, tmp_path: Path) -> None:
    gallery = stored(release, vectors, tmp_path, Flat())
    for how, told in (({"fold": 2.0}, "fold is 2.0"), ({"rerank": -1}, "rerank is -1")):
        with pytest.raises(UserError, match=told):
            gallery.search(release, vectors[:1], 3, **how)  # type: ignore[arg-type]
    gallery.vectors.source = None  # as in an index that an earlier version of vlp wrote
    assert gallery.search(release, vectors[:1], 3)
    with pytest.raises(UserError, match="kept no vectors"):
        gallery.search(release, vectors[:1], 3, fold=0.9)


def stored(release: Release, vectors: Any, folder: Path, kind: Index) -> Gallery:
    """An index of a store in clip-retrieval's layout, whose keys are the numbers of its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("img_emb", "metadata"):
        (folder / "store" / name).mkdir(parents=True)
    np.save(folder / "store" / "img_emb" / "img_emb_0.npy", vectors)
    rows = {"image_path": [str(i) for i in range(len(vectors))], "caption": [""] * len(vectors)}
    pq.write_table(pa.table(rows), folder / "store" / "metadata" / "metadata_0.parquet")
    assert EmbeddingStore.open(folder / "store").model == ""
    return build_gallery(release, str(folder / "store"), folder / "index", kind=kind)
