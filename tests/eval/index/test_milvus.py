"""Vectors in Milvus Lite, against the exact search of numpy."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.index import NOTHING
from eval.index import milvus as kinds
from eval.index._milvus import token_for
from eval.index.milvus import Milvus, MilvusVectors, drop_unused
from eval.search.build import chosen_kind
from vlp.errors import UserError

for package in ("pymilvus", "milvus_lite"):
    pytest.importorskip(package, reason="pip install 'vlp[milvus]'")

N, DIM = 600, 16
Filled = tuple[MilvusVectors, np.ndarray, np.ndarray]


def unit(seed: int, n: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, DIM))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def nearest(queries: np.ndarray, vectors: np.ndarray, among: np.ndarray, k: int) -> np.ndarray:
    return among[np.argsort(-(queries @ vectors[among].T), axis=1, kind="stable")[:, :k]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("milvus")


@pytest.fixture(scope="module")
def filled(home: Path) -> Filled:
    """An exact index of N vectors, saved as a version's file; its vectors, and queries."""
    vectors = unit(0, N)
    made = Milvus(index="FLAT").at(home).empty(DIM)
    made.add(vectors[:400], np.arange(400))
    made.add(vectors[400:], np.arange(400, N))
    made.save(home / "milvus.json")
    return made, vectors, unit(1, 5)


def opened(filled: Filled, home: Path) -> MilvusVectors:
    return filled[0].kind.load(home / "milvus.json")


def test_it_finds_what_numpy_finds_among_all_and_among_any(filled: Filled, home: Path) -> None:
    made, vectors, queries = opened(filled, home), *filled[1:]
    rng = np.random.default_rng(2)
    for among in (None, *(np.sort(rng.choice(N, n, replace=False)) for n in (3, 60, 500))):
        ids = np.arange(N) if among is None else among
        hits = made.search(queries, 10, among)
        truth = nearest(queries, vectors, ids, 10)
        assert (hits.ids[:, : truth.shape[1]] == truth).all()
        assert (hits.ids[:, truth.shape[1] :] == NOTHING).all()
        wanted = np.take_along_axis(queries @ vectors.T, truth, 1)
        assert hits.scores[:, : truth.shape[1]] == pytest.approx(wanted, abs=1e-5)
        assert (hits.scores[:, truth.shape[1] :] == -np.inf).all()
    assert (made.search(queries, 10, np.empty(0, np.int64)).ids == NOTHING).all()
    assert made.search(queries, 10**6).ids.shape == (5, N)


@pytest.mark.parametrize("listed, fetched", [(20, 2048), (20, 1), (250, 1)])
def test_filters_too_long_to_be_named_leave_nothing_out(
    filled: Filled, home: Path, monkeypatch: pytest.MonkeyPatch, listed: int, fetched: int
) -> None:
    """More is asked for and sifted; where that finds too few, ids are named some at a time."""
    monkeypatch.setattr(kinds, "LISTED", listed)
    monkeypatch.setattr(kinds, "FETCHED", fetched)
    made, vectors, queries = opened(filled, home), *filled[1:]
    far = np.sort(np.argsort(queries[0] @ vectors.T)[:100])  # the farthest, which no widened search comes upon
    for among in (far, np.arange(0, N, 2)):
        assert (made.search(queries, 10, among).ids == nearest(queries, vectors, among, 10)).all()
    made.remove(np.arange(0, N, 3))
    left = np.setdiff1d(np.arange(N), np.arange(0, N, 3))
    assert (made.search(queries, 10).ids == nearest(queries, vectors, left, 10)).all()
    among = np.arange(0, N, 2)
    assert (made.search(queries, 10, among).ids == nearest(queries, vectors, np.intersect1d(among, left), 10)).all()


def test_a_version_never_shows_what_later_ones_add(filled: Filled, home: Path) -> None:
    """A writer that was killed leaves rows in the collection; the next one takes them out before it adds its own."""
    before, vectors, queries = opened(filled, home), *filled[1:]
    killed = opened(filled, home)
    killed.add(queries, np.arange(N, N + 5))  # and never saved
    assert (before.search(queries, 1).ids[:, 0] < N).all()
    after = opened(filled, home)
    after.remove(np.arange(3))
    more = np.concatenate([unit(3, 1), queries[:2]])
    after.add(more, np.arange(N, N + 3))
    after.save(home / "after.json")
    again = after.kind.load(home / "after.json")
    both, live = np.concatenate([vectors, more]), np.arange(3, N + 3)
    assert (again.search(queries, 8).ids == nearest(queries, both, live, 8)).all()
    assert (again.live_ids() == live).all()
    assert (len(again), len(before)) == (N, N)
    assert (before.search(queries, 8).ids == nearest(queries, vectors, np.arange(N), 8)).all()
    assert again.problems() == before.problems() == []
    again.collection.delete_from(N + 1)
    assert "has 601 of 603 vectors" in again.problems()[0]


def test_collections_that_no_version_names_are_dropped(filled: Filled, home: Path) -> None:
    made = filled[0].kind.empty(DIM)
    nameless = filled[0].kind.empty(DIM).collection  # of a build that was killed before it wrote anything
    made.save(home / "other.json")
    drop_unused(home, [home / "other.json", home / "milvus.json"], [home / "milvus.json"])
    opened(filled, home)
    assert nameless.name not in nameless.neighbours()
    with pytest.raises(UserError, match=f"has no collection {made.collection.name} any more; build the index again"):
        made.kind.load(home / "other.json")


def test_what_is_wrong_is_one_sentence(filled: Filled, home: Path, tmp_path: Path) -> None:
    made, _, queries = opened(filled, home), *filled[1:]
    for bad, words in (
        (lambda: made.search(queries[:, :8], 3), "width 16"),
        (lambda: made.search(np.full((1, DIM), np.nan), 3), "NaN"),
        (lambda: made.search(queries, 0), "at least 1"),
        (lambda: made.add(queries, np.arange(5)), "go on at 600"),
        (lambda: Milvus(uri="somewhere").empty(DIM), r"a file: NAME\.db"),
        (lambda: Milvus(uri="ftp://x/y.db").empty(DIM), "begin with http"),
        (lambda: Milvus(uri="http://root:secret@host:1").empty(DIM), "no password; put it into .* MILVUS_TOKEN"),
        (lambda: Milvus(links=1).at(home).empty(DIM), "links"),
        (lambda: Milvus().at(tmp_path).load(home / "milvus.json"), "which holds the vectors .* is gone"),
    ):
        with pytest.raises(UserError, match=words) as error:
            bad()
        assert "\n" not in str(error.value)
        assert "secret" not in str(error.value)
    about = json.loads((home / "milvus.json").read_text())
    (tmp_path / "milvus.json").write_text(json.dumps({**about, "dim": 8}))
    with pytest.raises(UserError, match=r"holds vectors of width \[16\], not 8"):
        made.kind.load(tmp_path / "milvus.json")
    (tmp_path / "milvus.json").write_text("[]")
    with pytest.raises(UserError, match="names no collection"):
        made.kind.load(tmp_path / "milvus.json")


@pytest.mark.parametrize("package", ["pymilvus", "milvus_lite"])
def test_without_its_packages_the_extra_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}; run: pip install 'vlp\[milvus\]'"):
        Milvus().at(tmp_path).empty(DIM)


def test_options_name_it_and_a_token_stays_out_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    made = chosen_kind("milvus", ("uri=http://db:19530", "index=IVF_FLAT", "cells=64"))
    assert made == Milvus(uri="http://db:19530", index="IVF_FLAT", cells=64)
    with pytest.raises(UserError, match='no option "folder"'):
        chosen_kind("milvus", ("folder=/",))
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    assert token_for("http://db:19530") == ""  # an index from elsewhere may name any address
    monkeypatch.setenv("MILVUS_URI", "http://db:19530/")
    assert token_for("http://db:19530") == "root:secret"
    assert token_for("http://db.elsewhere:19530") == ""


@pytest.mark.slow
def test_a_server_that_does_not_answer_and_a_file_in_use_are_said_soon(filled: Filled, home: Path) -> None:
    with socket.socket() as listening:  # accepts, and never says a word
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        silent = listening.getsockname()[1]
        for port in (1, silent):
            begun = time.monotonic()
            with pytest.raises(UserError, match=f"no Milvus answers at http://127.0.0.1:{port}") as error:
                Milvus(uri=f"http://127.0.0.1:{port}").empty(DIM)
            assert time.monotonic() - begun < 30
            assert "\n" not in str(error.value)
    script = f"from eval.index.milvus import *; Milvus().at(Path({str(home)!r})).empty(4)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode
    assert re.search("UserError: Milvus Lite cannot open .*another program has it open", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("index", ["HNSW", "IVF_FLAT", "AUTOINDEX"])
def test_approximate_kinds_find_most_of_what_numpy_finds(index: str, filled: Filled, home: Path) -> None:
    _, vectors, queries = filled
    made = Milvus(index=index, cells=16, probes=12).at(home).empty(DIM)
    made.add(vectors, np.arange(N))
    made.save(home / f"{index}.json")
    for among in (np.arange(N), np.arange(0, N, 7)):
        truth = nearest(queries, vectors, among, 10)
        hits = made.search(queries, 10, among).ids
        assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(hits, truth, strict=True)]) > 0.9
    if index == "IVF_FLAT":  # settings arrive: fewer probes find less, all of them everything
        recalls = []
        for probes in (1, 16):
            made.kind = replace(made.kind, probes=probes)
            answers = made.search(queries, 10).ids
            truth = nearest(queries, vectors, np.arange(N), 10)
            recalls.append(np.mean([len({*a} & {*b}) / 10 for a, b in zip(answers, truth, strict=True)]))
        assert recalls[0] < 0.9
        assert recalls[1] == 1
