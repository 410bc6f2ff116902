"""Every kind of index, found by listing the folder, against the exact search of numpy."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import eval.index as package
from eval.index import NOTHING, Index, Vectors, _among
from eval.index._centres import centres_of
from eval.index._lists import write_joined
from eval.index.flat import Flat
from eval.index.ivf import Ivf
from vlp.config import component
from vlp.errors import UserError

GPU = {"gpu_cagra": "hnsw", "gpu_flat": "flat", "gpu_ivf": "ivf"}  # and what to take where there is none
ELSEWHERE = ("milvus",)  # its ids are numbers of rows: test_milvus
SLOW = ("opq",)  # it learns a rotation first
KINDS = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_" and m.name not in ELSEWHERE)
SMALL = {"ivf_pq": {"pieces": 16, "candidates": 30}, "opq": {"pieces": 16, "candidates": 30}}
"""What the clustered vectors of these tests, of width 32, ask for"""
N, DIM = 600, 32


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    """Unit vectors around 20 centres: data with the structure that approximate kinds rely on."""
    centres = rng.normal(size=(20, DIM))
    x = centres[rng.integers(0, 20, n)] + 0.5 * rng.normal(size=(n, DIM))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in KINDS])
def kind(request: pytest.FixtureRequest) -> Index:
    import faiss

    if request.param in GPU and not (hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus()):
        pytest.skip("FAISS has no GPU here")
    made: Index = component(Index, request.param)(**SMALL.get(request.param, {}))
    return made


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, their ids (neither sorted nor from 0), queries."""
    rng = np.random.default_rng(0)
    return unit(rng, N), rng.permutation(N).astype(np.int64) * 7 + 3, unit(rng, 40)


def filled(kind: Index, vectors: np.ndarray, ids: np.ndarray) -> Vectors:
    made = kind.empty(DIM)
    made.train(vectors)
    made.add(vectors, ids)
    return made


def exact(queries: np.ndarray, vectors: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    return ids[np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]]


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found, truth, strict=True)]))


def test_flat_is_exact(data: tuple) -> None:
    vectors, ids, queries = data
    hits = filled(Flat(), vectors, ids).search(queries, 10)
    truth = exact(queries, vectors, ids, 10)
    assert (hits.ids == truth).mean() > 0.99  # rounding may swap near-equal neighbours
    assert hits.scores == pytest.approx(-np.sort(-(queries @ vectors.T), axis=1)[:, :10], abs=1e-5)


def test_a_kind_finds_most_of_what_flat_finds(kind: Index, data: tuple) -> None:
    vectors, ids, queries = data
    assert overlap(filled(kind, vectors, ids).search(queries, 10).ids, exact(queries, vectors, ids, 10)) > 0.8


def test_removed_vectors_are_gone_and_the_others_keep_their_ids(kind: Index, data: tuple) -> None:
    vectors, ids, queries = data
    index = filled(kind, vectors, ids)
    gone = exact(queries, vectors, ids, 2).ravel()
    assert index.remove(np.append(gone, 10**9)) == len(set(gone))
    assert index.remove(gone) == 0
    kept = ~np.isin(ids, gone)
    assert len(index) == kept.sum()
    found = index.search(queries, 10).ids
    assert not np.isin(found, gone).any()
    assert overlap(found, exact(queries, vectors[kept], ids[kept], 10)) > 0.8


def test_loading_gives_what_was_saved(kind: Index, data: tuple, tmp_path: Path) -> None:
    vectors, ids, queries = data
    index = filled(kind, vectors, ids)
    index.remove(ids[:5])
    index.save(tmp_path / "index.faiss")
    again = Vectors.load(tmp_path / "index.faiss", kind)
    assert (again.search(queries, 5).ids == index.search(queries, 5).ids).all()
    assert (len(again), again.dim) == (len(index), DIM)
    more = unit(np.random.default_rng(1), 10)
    again.add(more, np.arange(10) + 10**6)
    assert 10**6 in again.search(more[:1], 5).ids


def test_a_mapped_index_gives_what_was_saved(kind: Index, data: tuple, tmp_path: Path) -> None:
    vectors, ids, queries = data
    index = filled(kind, vectors, ids)
    index.remove(ids[:50])
    index.save(tmp_path / "index.faiss")
    mapped = Vectors.load(tmp_path / "index.faiss", kind, mapped=True)
    one, two = index.search(queries, 10), mapped.search(queries, 10)
    assert (one.ids == two.ids).all()
    assert (one.scores == two.scores).all()
    assert not np.isin(two.ids, ids[:50]).any()
    assert set(mapped.stored_ids()) - mapped.removed == set(ids[50:])


@pytest.mark.parametrize("name", GPU)
def test_without_a_gpu_its_kinds_say_what_to_install(name: str) -> None:
    import faiss

    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("FAISS has GPUs here")
    with pytest.raises(UserError, match=f"kind {name} needs FAISS for GPUs.* choose --kind {GPU[name]}"):
        component(Index, name)().empty(DIM)


@pytest.mark.parametrize(
    "name, less, more",
    [
        ("ivf", {"probes": 1}, {"probes": 64}),
        ("ivf_sq8", {"probes": 1}, {"probes": 64}),
        ("ivf_pq", {"candidates": 1}, {"candidates": 60}),
        pytest.param("opq", {"candidates": 1}, {"candidates": 60}, marks=pytest.mark.slow),
        ("rabitq", {"candidates": 1}, {"candidates": 60}),
        ("hnsw", {"search_effort": 1}, {"search_effort": 512}),
    ],
)
def test_what_is_turned_up_finds_more(name: str, less: dict, more: dict, data: tuple) -> None:
    vectors, ids, queries = data
    truth = exact(queries, vectors, ids, 10)
    little, much = (component(Index, name)(**settings) for settings in (less, more))
    index = filled(little, vectors, ids)
    first = overlap(index.search(queries, 10).ids, truth)
    index.kind = much  # settings of a search: the vectors lie as they did
    assert overlap(index.search(queries, 10).ids, truth) > max(first, 0.95)


def test_asking_for_more_than_there_is_gives_empty_places(kind: Index, data: tuple) -> None:
    vectors, ids, queries = data
    index = filled(kind, vectors, ids)
    index.remove(ids[3:])
    hits = index.search(queries[:1], 8)
    assert set(hits.ids[0]) <= {*ids[:3], NOTHING}
    assert (hits.scores[hits.ids == NOTHING] == -np.inf).all()


def test_bad_vectors_and_ids_are_refused(kind: Index, data: tuple) -> None:
    vectors, ids, queries = data
    index = filled(kind, vectors, ids)
    with pytest.raises(UserError, match="width 32"):
        index.search(queries[:, :8], 3)
    with pytest.raises(UserError, match="NaN"):
        index.search(np.full((1, DIM), np.nan), 3)
    with pytest.raises(UserError, match="there already"):
        index.add(queries[:1], ids[:1])
    with pytest.raises(UserError, match="given twice"):
        index.add(queries[:2], np.array([1, 1]))
    index.remove(ids[:1])
    if not kind.can_remove():
        with pytest.raises(UserError, match="still stored"):
            index.add(queries[:1], ids[:1])
    if kind.vectors_to_train():
        with pytest.raises(UserError, match="needs at least"):
            kind.empty(DIM).train(vectors[:10])


def test_pq_says_which_widths_it_can_take() -> None:
    with pytest.raises(UserError, match="does not divide"):
        component(Index, "pq")().empty(30)


def test_a_full_disk_is_the_error_of_a_full_disk(data: tuple) -> None:
    vectors, ids, _ = data
    with pytest.raises(OSError, match="No space left"):
        filled(Flat(), vectors, ids).save(Path("/dev/full"))


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="not an index"):
        Vectors.load(tmp_path / "index.faiss", Flat())


def test_a_filtered_search_finds_what_is_nearest_of_the_chosen(kind: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all that is chosen lies far from what is asked for; of removed ids none is a hit."""
    monkeypatch.setattr(_among, "FEW", 16)  # so that the index itself is asked
    rng = np.random.default_rng(0)
    vectors, ids, queries = unit(rng, 4 * N), np.arange(4 * N), unit(rng, 20)
    index = filled(kind, vectors, ids)
    index.remove(gone := rng.choice(ids, 100, replace=False))
    near = 0.05 if type(kind).__name__ == "Pq" else 0.003  # what short codes do not tell apart
    nearest = (vectors @ queries.T).max(axis=1)
    for order in (rng.permutation(ids), np.argsort(nearest)):
        for share in (0.01, 0.1, 0.5):
            chosen = np.sort(order[: int(share * 4 * N)])
            left = np.setdiff1d(chosen, gone)
            found = index.search(queries, 10, among=chosen)
            assert np.isin(found.ids, left).all()
            scores = queries @ vectors.T
            tenth = np.sort(scores[:, left], axis=1)[:, [-min(10, len(left))]]
            found_scores = np.take_along_axis(scores, found.ids, 1)
            assert (found_scores >= tenth - near).mean() > 0.95, (share, found_scores.min(1) - tenth[:, 0])
            assert found.scores == pytest.approx(found_scores, abs=0.02 if not kind.can_remove() else 0.1)
    assert (index.search(queries, 10, among=np.sort(gone)[:3]).ids == NOTHING).all()
    index.source = vectors
    one = left[:1]
    assert (index.search(queries, 10, among=one).ids == one).all()  # the only one there is


@pytest.mark.parametrize("name", ["ivf", "ivf_sq8"])
def test_lists_joined_on_the_disk_are_the_file_that_faiss_writes(name: str, data: tuple, tmp_path: Path) -> None:
    """Byte for byte, also with so many cells that most are empty; what is added and removed is so in the next file."""
    vectors, ids, queries = data
    for cells in (8, 500):
        kind = component(Index, name)(cells=cells, probes=4)
        whole = kind.empty(DIM)
        whole.train(vectors)
        whole.save(tmp_path / "trained")
        parts = []
        for start in range(0, N if cells == 8 else 90, 30):
            part = Vectors.load(tmp_path / "trained", kind)
            for one in (part, whole):
                one.add(vectors[start : start + 30], ids[start : start + 30])
            part.save(tmp_path / f"part-{start}")
            parts.append(Vectors.load(tmp_path / f"part-{start}", kind, mapped=True).faiss_index)
        whole.save(tmp_path / "whole")
        write_joined(parts, tmp_path / "joined")
        assert (tmp_path / "joined").read_bytes() == (tmp_path / "whole").read_bytes()
    on_disk = Vectors.load(tmp_path / "joined", replace(kind, on_disk=True))
    on_disk.add(vectors[200:300], ids[200:300])
    whole.add(vectors[200:300], ids[200:300])
    assert (np.sort(on_disk.stored_ids()) == np.sort(whole.stored_ids())).all()
    assert on_disk.remove(ids[:40]) == whole.remove(ids[:40])
    on_disk.save(tmp_path / "next")
    again = Vectors.load(tmp_path / "next", on_disk.kind)
    assert len(again) == len(on_disk) == len(whole)
    for one in (again, on_disk):
        assert (one.search(queries, 5).ids == whole.search(queries, 5).ids).all()
    with pytest.raises(UserError, match="cannot leave its lists on the disk"):
        write_joined([filled(component(Index, "ivf_pq")(pieces=16), vectors, ids).faiss_index], tmp_path / "x")


def test_sizes_that_are_foretold_are_those_of_the_files(kind: Index, data: tuple, tmp_path: Path) -> None:
    """A kind that is too large is left out before it is built: within 10 %, and a few KB that every file has."""
    vectors, ids, _ = data
    filled(kind, vectors, ids).save(tmp_path / "index.faiss")
    assert kind.size(N, DIM) == pytest.approx((tmp_path / "index.faiss").stat().st_size, rel=0.1, abs=20_000)


def test_cells_that_were_learned_before_are_those_of_an_index(data: tuple) -> None:
    import faiss

    vectors, ids, queries = data
    centres = centres_of(vectors, 16)
    assert np.linalg.norm(centres, axis=1) == pytest.approx(1, abs=1e-5)
    kinds: list[Index] = [Ivf(cells=16, probes=3), component(Index, "ivf_pq")(cells=16, pieces=16)]
    for kind in kinds:
        given, own = kind.empty(DIM), kind.empty(DIM)
        given.train(vectors, centres)
        own.train(vectors)
        for index in (given, own):
            index.add(vectors, ids)
            cells = faiss.extract_index_ivf(index.faiss_index if kind is kinds[0] else index.faiss_index.index)
            kept = faiss.downcast_index(cells.quantizer).reconstruct_n(0, 16)
            assert (kept == centres).all()
        assert (given.search(queries, 5).ids == own.search(queries, 5).ids).all()
    ivf = Ivf(cells=16, probes=3).empty(DIM)
    ivf.train(vectors, centres)
    ivf.add(vectors, ids)
    cell = np.argmax(vectors @ centres.T, axis=1)  # numpy's own inverted file
    for query, found in zip(queries, ivf.search(queries, 5).ids, strict=True):
        near = np.isin(cell, np.argsort(-(centres @ query))[:3])
        truth = exact(query[None], vectors[near], ids[near], 5)[0]
        assert len(set(found) & set(truth)) >= min(4, len(truth))  # a tie of rounding at most
