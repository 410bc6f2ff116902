"""A web server that answers, and answers wrongly: nothing of it is believed, and nothing of it is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.faults.answers import Server
from data_pipelines.loading.loader import Loader
from data_pipelines.remote import shard_cache
from data_pipelines.remote.fetch import Changed, LocalFile, Patience, RemoteFile, Unreadable
from data_pipelines.remote.http import NoRanges
from data_pipelines.settings import Remote
from data_pipelines.shards import open_shards
from data_pipelines.shards.open_shards import Access, OpenShard
from data_pipelines.shards.tar_index import TarIndex, build
from data_pipelines.stream import Stream
from vlp.models.image_transform import RandomCrop

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.timeout(120)
BODY = bytes(range(256)) * 4096
QUICK = Patience(attempts=3, first_wait=0.01, longest_wait=0.02, deadline=2.0)
COUNTS = (30, 25, 5)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def published(server: Server, tmp_path: Path, make_shards: Callable[..., Path]) -> Path:
    """Shards on the server under /set, with a manifest, and under /bare without one."""
    folder, rows = make_shards(tmp_path / "set", COUNTS), []
    for path, count in zip(sorted(folder.glob("*.tar")), COUNTS, strict=True):
        data = path.read_bytes()
        rows.append(
            {"file": path.name, "samples": count, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
        server.objects[f"/set/{path.name}"] = server.objects[f"/bare/{path.name}"] = data
    server.objects["/set/manifest.json"] = json.dumps({"format": "vlp-shards-1", "shards": rows}).encode()
    return folder


WRONG = ("page", "another range", "another size", "no range named", "shorter than named", "no ranges")


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_asked_again_or_refused(server: Server, wrong: str) -> None:
    server.objects["/a.tar"] = BODY
    file = RemoteFile(f"{server.url}/a.tar", QUICK)
    server.wrong, server.left = wrong, 1
    if wrong in ("another size", "no ranges"):
        with pytest.raises(Changed if wrong == "another size" else NoRanges):
            file.read(1000, 5000)
    assert file.read(1000, 5000) == BODY[1000:6000]
    server.left = 1 << 30
    with pytest.raises((Unreadable, NoRanges)):
        file.read(1000, 5000)


def opened(stream: Stream) -> Loader:
    loader = stream.open(
        transform=RandomCrop(size=8), tokenizer=lambda t: torch.ones(len(t), 2, dtype=torch.int64), global_batch=6
    )
    assert isinstance(loader, Loader)
    return loader


def epoch(loader: Loader) -> set[str]:
    return {key for _ in range(loader.batches_per_epoch) for key in next(iter(loader)).keys}


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that failed is asked for again at once; shards are downloaded in many parts."""
    monkeypatch.setattr(open_shards, "FORGET_SECONDS", 0.0)
    monkeypatch.setattr(shard_cache, "CHUNK", 1 << 14)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("wrong", [*WRONG[:5], "page of its size"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_server_that_recovers_has_poisoned_nothing(
    server: Server, published: Path, tmp_path: Path, wrong: str, kept: bool
) -> None:
    """What is lost meanwhile is counted to the sample; afterwards every sample comes, from the same caches."""
    folder = str(tmp_path / "shards") if kept else ""
    remote = Remote(index_cache=str(tmp_path / "index"), request_attempts=2, shard_cache=folder)
    stream = Stream(shards=f"{server.url}/set", drop_budget=1.0, remote=remote)
    server.wrong, server.left = wrong, 6
    loader = opened(stream)
    seen = epoch(loader)
    assert len(seen) + loader.ledger.lost >= 60
    assert set(loader.ledger.by_reason()) <= {"unreadable shard", "changed shard"}
    server.wrong = ""
    again = opened(stream)
    assert (len(epoch(again)), again.ledger.lost) == (60, 0)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", ["set", "bare"])
def test_a_server_without_ranges_is_read_through_the_shard_cache(
    server: Server, published: Path, tmp_path: Path, kind: str
) -> None:
    spec = f"{server.url}/{kind}" + ("/{00000..00002}.tar" if kind == "bare" else "")
    server.wrong = "no ranges"
    for part in ("index", "other"):
        remote = Remote(index_cache=str(tmp_path / part), shard_cache=str(tmp_path / "shards"))
        loader = opened(Stream(shards=spec, remote=remote))
        assert (len(epoch(loader)), loader.ledger.lost) == (60, 0)
    with pytest.raises(NoRanges, match=r"ignores byte ranges.*set data\.remote\.shard_cache"):
        RemoteFile(f"{server.url}/set/00000.tar", QUICK).read(0, 1000)


def test_an_empty_object_has_its_own_sentence(server: Server) -> None:
    server.objects["/a.tar"] = b""
    with pytest.raises(Unreadable, match=r"is empty \(0 bytes\)"):
        RemoteFile(f"{server.url}/a.tar", QUICK)


def forged(index: TarIndex, kind: str) -> TarIndex:
    from dataclasses import replace

    spans = index.spans.copy()
    if kind == "names":
        return replace(index, keys=("../../evil", *index.keys[1:]))
    if kind == "twice":
        return replace(index, keys=(index.keys[1], *index.keys[1:]))
    if kind == "outside":
        spans[3, 0] = (index.tar_bytes - 512, 1 << 40)
    if kind == "swapped":
        spans[[3, 4]] = spans[[4, 3]]
    if kind == "inside":
        spans[3, 0, 1] -= 1
    return replace(index, spans=spans)


@pytest.mark.parametrize("kind", ["true", "names", "twice", "outside", "swapped", "inside"])
def test_an_index_beside_an_object_is_compared_with_its_headers(
    server: Server, published: Path, tmp_path: Path, kind: str
) -> None:
    """One that cannot be true is not used; where one tells of another place, that sample is not delivered."""
    path = published / "00000.tar"
    index = build(LocalFile(str(path)))
    forged(index, kind).save(tmp_path / "forged.index")
    server.objects["/bare/00000.index"] = (tmp_path / "forged.index").read_bytes()
    access = Access(index_cache=tmp_path / "cache")
    shard = OpenShard(f"{server.url}/bare/00000.tar", access)
    assert shard.index.keys == index.keys
    lies = {"swapped": (3, 4), "inside": (3,)}.get(kind, ())
    for i, key in enumerate(index.keys):
        if i in lies:
            with pytest.raises(Unreadable, match=f"the .index beside it says that {key}"):
                shard.sample(i)
        else:
            assert shard.sample(i).record["txt"] == f"caption {i}"
    kept = list((tmp_path / "cache").glob("*.index"))
    assert len(kept) == (kind in ("names", "twice", "outside"))  # those that were built, not given


def test_a_local_index_from_outside_is_not_used(published: Path, tmp_path: Path) -> None:
    path = published / "00000.tar"
    index = build(LocalFile(str(path)))
    forged(index, "swapped").save(path.with_suffix(".index"))
    shard = OpenShard(str(path), Access(index_cache=tmp_path / "cache"))
    assert (shard.index.spans == index.spans).all()
