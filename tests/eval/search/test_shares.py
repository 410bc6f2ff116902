"""Building by several processes: the index is that of one process, whoever dies and whoever comes late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.index import Index, Vectors
from eval.index.flat import Flat
from eval.index.hnsw import Hnsw
from eval.index.ivf import Ivf
from eval.search import shares
from eval.search.build import build_gallery, main
from eval.search.fill import filled
from eval.search.gallery import Gallery
from eval.search.shares import Plan, follow, led
from eval.search.spool import vectors_of
from eval.search.versions import working_folder
from vlp.config import component
from vlp.errors import UserError
from vlp.lock import held, locked
from vlp.models.release import Release

N, DIM, SIZE = 600, 32, 3
KINDS = {
    "flat": {},
    "ivf": {"cells": 8, "on_disk": True},
    "ivf_sq8": {"cells": 8},
    "ivf_pq": {"cells": 8},
    "rabitq": {"cells": 8},
}


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    made = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "BLOCK", 16)


@pytest.mark.parametrize("name", [*KINDS, pytest.param("opq", marks=pytest.mark.slow)])
def test_shares_put_together_are_the_index_of_one_process(name: str, vectors: np.ndarray, tmp_path: Path) -> None:
    kind: Index = component(Index, name)(**KINDS.get(name, {"cells": 8}))
    one, many = (tmp_path / which for which in ("one", "many"))
    one.mkdir()
    whole = filled(kind, one, vectors)
    made = led(kind, many, vectors, SIZE)
    plan = Plan.read(many)
    assert plan is not None
    assert plan.shares > SIZE
    assert len(made) == N
    assert (np.sort(made.stored_ids()) == np.arange(N)).all()
    ours, theirs = made.search(vectors[:50], 10), whole.search(vectors[:50], 10)
    assert (ours.ids == theirs.ids).all()
    assert (ours.scores == theirs.scores).all()
    made.save(tmp_path / "index.faiss")
    again = Vectors.load(tmp_path / "index.faiss", kind, mapped=True)
    assert (again.search(vectors[:50], 10).ids == theirs.ids).all()


def test_a_graph_is_built_by_one_process(vectors: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"kind hnsw is built by one process .* leave --size out") as told:
        led(Hnsw(), tmp_path, vectors, 2)
    assert "\n" not in str(told.value)


def test_a_leader_that_was_killed_goes_on_with_the_shares_that_are_there(vectors: np.ndarray, tmp_path: Path) -> None:
    first = led(Flat(), tmp_path, vectors, SIZE)
    plan = Plan.read(tmp_path)
    assert plan is not None
    gone = list(range(1, plan.shares, 2))
    for number in gone:
        plan.share(number).unlink()
    kept = {number: plan.share(number).stat().st_mtime_ns for number in range(0, plan.shares, 2)}
    again = led(Flat(), tmp_path, vectors, SIZE)
    assert (again.search(vectors, 3).ids == first.search(vectors, 3).ids).all()
    assert all(plan.share(number).stat().st_mtime_ns == kept[number] for number in kept)
    led(Flat(), tmp_path, vectors[:300], SIZE)  # other vectors: nothing of it is taken
    assert all(not plan.share(number).is_file() for number in kept)


def test_a_follower_without_a_leader_ends_in_one_sentence(vectors: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no process with --rank 0 has led the build .* no plan was written") as told:
        follow(tmp_path / "index", 1, patience_s=0.1)
    assert "\n" not in str(told.value)
    folder = working_folder(tmp_path / "index")
    folder.mkdir()
    np.save(folder / "vectors.npy", vectors)
    with locked(tmp_path, ".index.lock"):
        leader = threading.Thread(target=led, args=(Ivf(cells=4), folder, vectors, SIZE))
        leader.start()
        leader.join()
        told_of: list[str] = []

        def wait() -> None:
            with pytest.raises(UserError) as ended:
                follow(tmp_path / "index", 1, patience_s=0.1)
            told_of.append(str(ended.value))

        waits = threading.Thread(target=wait)
        waits.start()
        waits.join(0.4)
        assert waits.is_alive()  # the leader lives: it is waited for
    waits.join(10)
    assert "the shares were not put together" in told_of[0]  # it left before the index was whole


def test_locks_are_seen_without_taking_them(tmp_path: Path) -> None:
    assert not held(tmp_path)
    with locked(tmp_path):
        assert held(tmp_path)
    assert not held(tmp_path)


def test_the_command_refuses_ranks_that_are_none(tmp_path: Path) -> None:
    for rank, size in (("2", "2"), ("-1", "2"), ("0", "0")):
        with pytest.raises(UserError, match="ranks are numbers from 0 to size - 1"):
            main(["model", "shards", str(tmp_path / "index"), "--rank", rank, "--size", size])


@pytest.mark.slow
def test_ranks_that_are_killed_change_nothing(
    release: Release, model_folder: Path, tmp_path: Path, vectors: np.ndarray
) -> None:
    """Three real processes, of which one and then the leader are killed; the index is that of one process."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dim = len(release.embed_texts(["a"])[0])
    some = np.random.default_rng(1).normal(size=(200_000, dim)).astype(np.float16)
    store = tmp_path / "store"
    for folder in ("img_emb", "metadata"):
        (store / folder).mkdir(parents=True)
    np.save(store / "img_emb" / "img_emb_0.npy", some)
    rows = {"key": [str(n) for n in range(len(some))], "caption": ["red circle"] * len(some)}
    pq.write_table(pa.table(rows), store / "metadata" / "metadata_0.parquet")
    kind = ("--kind", "ivf_sq8", "--option", "cells=64", "probes=8")
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}

    def start(rank: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "vlp.cli", "index", "build", str(model_folder), str(store)]
        return subprocess.Popen([*command, str(tmp_path / "index"), *kind, "--rank", str(rank), "--size", "3"], env=env)

    ranks = [start(rank) for rank in range(3)]
    plan = working_folder(tmp_path / "index") / shares.PLAN
    until = time.monotonic() + 120
    while not (plan.is_file() and any(plan.parent.glob("share-*.faiss"))) and time.monotonic() < until:
        time.sleep(0.02)
    ranks[1].send_signal(signal.SIGKILL)
    ranks[0].send_signal(signal.SIGKILL)
    assert ranks[0].wait() == ranks[1].wait() == -signal.SIGKILL
    again = start(0)
    assert again.wait(240) == 0
    assert ranks[2].wait(60) == 0
    made = Gallery.open(tmp_path / "index", mapped=False).vectors
    assert len(made) == len(some)
    alone = build_gallery(release, str(store), tmp_path / "alone", kind=replace(made.kind))
    asked = vectors_of(alone.files)[:100]
    assert (made.search(asked, 10).ids == alone.vectors.search(asked, 10).ids).all()
    assert json.dumps(alone.about["kind"]) == json.dumps(Gallery.open(tmp_path / "index").about["kind"])
