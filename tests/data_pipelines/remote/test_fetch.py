"""Remote shards from a server that misbehaves: resets, throttling, short bodies, stalls, vanished objects."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from data_pipelines.remote.fetch import Absent, Blocks, BlockStore, Changed, Patience, RemoteFile, Unreadable, exists
from data_pipelines.remote.shard_cache import ShardCache
from data_pipelines.settings import Remote
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.stream import Stream
from vlp.errors import UserError
from vlp.models.image_transform import RandomCrop

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.timeout(120)
BODY = bytes(range(256)) * 4096  # 1 MiB
STATUS = {"throttle": 503, "forbidden": 403}
QUICK = Patience(attempts=4, first_wait=0.01, longest_wait=0.02, deadline=2.0)


class Server(ThreadingHTTPServer):
    """Objects by path, with faults that are used up one by one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.busy = 0  # requests of any kind that are told to come back
        self.tags = False  # whether objects have ETags, and conditions are heeded
        self.gets: list[tuple[int, int]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that gave up is no news


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        held = self.server.objects.get(self.path)
        if self.server.busy:
            self.server.busy -= 1
            self.send_error(503)
            return
        with self.server.lock:
            fault = self.server.faults.pop(0) if body and self.server.faults else ""
        if held is None or fault == "gone":
            self.send_error(404)
            return
        if fault in STATUS:
            self.send_error(STATUS[fault])
            return
        tag = f'"{hashlib.sha256(held).hexdigest()}"'
        if self.server.tags and self.headers.get("If-Match", tag) != tag:
            self.send_error(412)
            return
        first, last = 0, len(held) - 1
        asked = self.headers.get("Range")
        if asked and fault != "no ranges":
            a, b = asked.removeprefix("bytes=").split("-")
            first, last = int(a), min(int(b) if b else last, last)
        part = held[first : last + 1]
        self.send_response(206 if asked and fault != "no ranges" else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(held)}")
        self.send_header("Accept-Ranges", "bytes")
        if self.server.tags:
            self.send_header("ETag", tag)
        self.end_headers()
        if not body:
            return
        self.server.gets.append((first, last + 1))
        if fault == "stall":
            time.sleep(QUICK.deadline + 1)
        if fault in ("reset", "truncate", "stall"):
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(part)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.objects["/a.tar"] = BODY
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("fault", ["reset", "truncate", "throttle", "stall"])
def test_a_broken_answer_is_asked_again_where_it_broke(server: Server, fault: str) -> None:
    file = RemoteFile(f"{server.url}/a.tar", QUICK)
    blocks = Blocks(file, BlockStore(1 << 24, block=1 << 16, threads=2))
    assert blocks.read(0, 1000) == BODY[:1000]
    server.gets.clear()
    server.faults += [fault] * 2
    assert blocks.read(5, len(BODY) - 9) == BODY[5:-4]
    asked = sum(stop - start for start, stop in server.gets)
    assert asked <= len(BODY) + 2 * (1 << 16)  # two blocks again, not the shard
    assert all(stop - start <= 1 << 16 for start, stop in server.gets)


def test_patience_ends(server: Server) -> None:
    file = RemoteFile(f"{server.url}/a.tar", QUICK)
    server.faults += ["throttle"] * 100
    started = time.monotonic()
    with pytest.raises(Unreadable, match="503"):
        file.read(0, 100)
    assert time.monotonic() - started < 10


def test_what_is_gone_is_not_asked_for_again(server: Server) -> None:
    with pytest.raises(Unreadable, match="FileNotFoundError"):
        RemoteFile(f"{server.url}/none.tar", QUICK)
    file = RemoteFile(f"{server.url}/a.tar", QUICK)
    server.faults += ["gone"]
    with pytest.raises(Unreadable, match="FileNotFoundError"):
        file.read(0, 100)


def test_what_is_forbidden_is_not_asked_for_again(server: Server) -> None:
    """As the URLs of a store that were signed for a time answer when it is over."""
    file = RemoteFile(f"{server.url}/a.tar", QUICK)
    server.faults += ["forbidden"]
    with pytest.raises(Absent, match="403"):
        file.read(0, 100)
    assert file.read(0, 100) == BODY[:100]


def test_a_busy_server_is_not_taken_for_an_empty_one(server: Server) -> None:
    server.busy = 4
    assert RemoteFile(f"{server.url}/a.tar", QUICK).size == len(BODY)
    server.busy = 3
    assert exists(f"{server.url}/a.tar")
    assert not exists(f"{server.url}/b.tar")


@pytest.mark.parametrize("tags", [False, True])
def test_parts_of_two_objects_are_not_joined(server: Server, tags: bool) -> None:
    """By ETags; and by comparing afterwards where a server has none."""
    server.tags = tags
    file = RemoteFile(f"{server.url}/a.tar", QUICK)
    assert file.read(0, 100) == BODY[:100]
    server.objects["/a.tar"] = BODY[::-1] if tags else BODY[::-1] + b"longer"
    with pytest.raises(Changed, match="was changed while it was read"):
        file.read(100, 100)
    assert RemoteFile(f"{server.url}/a.tar", QUICK).read(0, 100) == BODY[::-1][:100]


def test_a_server_without_ranges_is_refused_not_misread(server: Server) -> None:
    file = RemoteFile(f"{server.url}/a.tar", QUICK)
    server.faults += ["no ranges"]
    with pytest.raises(UserError, match="ignores byte ranges"):
        file.read(100, 100)


def test_blocks_are_bounded_and_read_once(server: Server) -> None:
    store = BlockStore(4 << 16, block=1 << 16, threads=2)
    blocks = Blocks(RemoteFile(f"{server.url}/a.tar", QUICK), store)
    server.gets.clear()
    blocks.expect(0, 2 << 16)
    for at in range(0, 2 << 16, 1000):
        assert blocks.read(at, 10) == BODY[at : at + 10]
    assert len(server.gets) == 2
    blocks.read(0, len(BODY))
    assert len(store._blocks) <= 4


def test_the_cache_verifies_resumes_and_stays_below_its_limit(server: Server, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, limit=int(2.5 * len(BODY)))
    total = hashlib.sha256(BODY).hexdigest()
    file = RemoteFile(f"{server.url}/a.tar", QUICK)
    server.faults += ["throttle"] * 4
    with pytest.raises(Unreadable):
        cache.path(file, total)
    path = cache.path(file, total)
    assert path.read_bytes() == BODY
    part = path.with_suffix(".part")
    path.rename(part)
    part.write_bytes(BODY[:400_000])  # as a killed process leaves it
    server.gets.clear()
    assert cache.path(file, total).read_bytes() == BODY
    assert server.gets[0][0] == 400_000
    cache.path(file, total)
    assert len(server.gets) == 1
    for name in "bcd":
        server.objects[f"/{name}.tar"] = BODY
        cache.path(RemoteFile(f"{server.url}/{name}.tar", QUICK), "")
    assert sum(p.stat().st_size for p in tmp_path.glob("*.tar")) <= 2.5 * len(BODY)
    server.objects["/e.tar"] = BODY
    with pytest.raises(Unreadable, match="its manifest says"):
        cache.path(RemoteFile(f"{server.url}/e.tar", QUICK), "0" * 64)


@pytest.fixture
def published(server: Server, tmp_path: Path, make_shards: Callable[..., Path]) -> Path:
    """Shards with a manifest, on the server under /set and in the folder that is returned."""
    folder = make_shards(tmp_path / "set", (30, 25, 5))
    rows = []
    for path in sorted(folder.glob("*.tar")):
        data = path.read_bytes()
        count = int({"00000": 30, "00001": 25, "00002": 5}[path.stem])
        sha256 = hashlib.sha256(data).hexdigest()
        rows.append({"file": path.name, "samples": count, "bytes": len(data), "sha256": sha256})
        server.objects[f"/set/{path.name}"] = data
    manifest = json.dumps({"format": "vlp-shards-1", "shards": rows})
    (folder / "manifest.json").write_text(manifest)
    server.objects["/set/manifest.json"] = manifest.encode()
    return folder


def keys(stream: Stream, batches: int) -> tuple[list[tuple[str, ...]], dict[str, int]]:
    loader = stream.open(
        transform=RandomCrop(size=8), tokenizer=lambda t: torch.ones(len(t), 2, dtype=torch.int64), global_batch=6
    )
    return [next(iter(loader)).keys for _ in range(batches)], loader.ledger.by_reason()


def test_a_remote_set_is_the_local_one(server: Server, published: Path, tmp_path: Path) -> None:
    want = keys(Stream(shards=str(published)), 20)
    url = f"{server.url}/set"
    assert ShardSet.open(url).counts == (30, 25, 5)
    server.faults += ["", "throttle", "reset", "", "truncate"]
    assert keys(Stream(shards=url), 20) == want
    assert keys(Stream(shards=url + "/{00000..00002}.tar"), 20) == want
    assert keys(Stream(shards=url, remote=Remote(shard_cache=str(tmp_path / "cache"))), 20) == want


def test_an_object_that_expires_is_counted(server: Server, published: Path) -> None:
    del server.objects["/set/00001.tar"]
    _, lost = keys(Stream(shards=f"{server.url}/set", drop_budget=1.0), 10)
    assert lost.keys() == {"unreadable shard"}


def test_memory_that_cannot_hold_the_windows_is_refused_at_once(server: Server, published: Path) -> None:
    with pytest.raises(UserError, match="read_ahead_bytes allows 0 MB"):
        keys(Stream(shards=f"{server.url}/set", remote=Remote(read_ahead_bytes=1000)), 1)
