"""A store that fails under way: resets, throttling, short bodies, stalls, objects that vanish or are replaced.

Between the stream and a real S3 server (moto's) stands a proxy that spoils answers. Each test has a deadline.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from data_pipelines.ledger import DropBudgetExceeded
from data_pipelines.loading.loader import Loader
from data_pipelines.remote.fetch import Absent, Changed, Patience, RemoteFile, Unreadable, _filesystem
from data_pipelines.remote.shard_cache import ShardCache
from data_pipelines.settings import Remote, Workers
from data_pipelines.shards.open_shards import Access, OpenShard
from data_pipelines.stream import Stream
from vlp.models.image_transform import RandomCrop

for package in ("moto", "s3fs", "boto3"):
    pytest.importorskip(package)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
COUNTS = (40, 30)  # samples of the shards; with their padding of 9 and 7 MiB, so of several requests each
PAD = 230_000
DEADLINE = 120.0  # seconds for a test, on a machine that does other things too
REQUEST_SECONDS = 6.0
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
NO_KEY = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
REFUSALS = {
    "expired": (400, EXPIRED, ()),
    "slow down": (503, SLOW_DOWN, ()),
    "too many": (429, SLOW_DOWN, (("Retry-After", "2"),)),
    "gone": (404, NO_KEY, ()),
}


class Asked(NamedTuple):
    """A request for a part of a tar: when it came, of what, and what was done to it."""

    at: float
    path: str
    span: str
    fault: str


class Proxy(ThreadingHTTPServer):
    """Hands requests on; each of `faults` spoils one request for a part of a tar."""

    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.faults, self.asked = target, list[str](), list[Asked]()
        self.every = ""  # a fault for every request
        self.bucket = ""  # nothing is done to requests for another, which an earlier test may have left under way
        self.rate = 0  # bytes a second, where it is not 0
        self.lock = threading.Lock()

    def fault(self, path: str, span: str) -> str:
        if not span or not (path.endswith(".tar") and path.startswith(f"/{self.bucket}/")):
            return ""
        with self.lock:
            fault = self.every or (self.faults.pop(0) if self.faults else "")
            self.asked.append(Asked(time.monotonic(), path, span, fault))
        return fault

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that gave up is no news


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._hand_on()

    def do_GET(self) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        fault = self.server.fault(self.path, self.headers.get("Range", ""))
        if fault in REFUSALS:
            status, body, headers = REFUSALS[fault]
            self._answer(status, [*headers, ("Content-Type", "text/xml"), ("Content-Length", str(len(body)))], body)
            return
        onward = http.client.HTTPConnection("127.0.0.1", self.server.target)
        onward.request(self.command, self.path, headers=dict(self.headers))
        got = onward.getresponse()
        body = got.read()
        headers = [(k, v) for k, v in got.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
        if got.getheader("Content-Length") is None:
            headers.append(("Content-Length", str(len(body))))
        if fault:
            self._answer(got.status, headers, body[: len(body) // 2])
            self._break(fault)
        else:
            self._answer(got.status, headers, body)
        onward.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        step = max(1, self.server.rate // 20) if self.server.rate else len(body) or 1
        for at in range(0, len(body), step):
            self.wfile.write(body[at : at + step])
            if self.server.rate:
                time.sleep(0.05)

    def _break(self, fault: str) -> None:
        self.wfile.flush()
        self.close_connection = True
        if fault == "stall":
            time.sleep(REQUEST_SECONDS + 2)
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class Store(NamedTuple):
    """A bucket behind the proxy, and the same shards in a folder."""

    proxy: Proxy
    client: Any
    folder: Path

    @property
    def url(self) -> str:
        return f"s3://{self.proxy.bucket}/set"

    def key(self, name: str) -> dict[str, str]:
        """Where boto3 finds a file of the folder."""
        return {"Bucket": self.proxy.bucket, "Key": f"set/{name}"}


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(port=0)
    moto.start()
    proxy = Proxy(moto.get_host_and_port()[1])
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    patch = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
    _filesystem.cache_clear()
    yield proxy
    patch.undo()
    _filesystem.cache_clear()
    proxy.shutdown()
    proxy.server_close()
    moto.stop()


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, write_tar: Callable[..., Path], picture: Callable[[int], bytes]
) -> Path:
    """Shards with a manifest; after each sample lie bytes that no reader asks for."""
    folder, rng, first, rows = tmp_path_factory.mktemp("faults") / "set", np.random.default_rng(0), 0, []
    folder.mkdir()
    for s, count in enumerate(COUNTS):
        files: list[tuple[str, bytes]] = []
        for n in range(first, first + count):
            files += [(f"{n:05d}.png", picture(n)), (f"{n:05d}.txt", b"%d" % n), (f"{n:05d}.pad", rng.bytes(PAD))]
        first += count
        data = write_tar(folder / f"{s:05d}.tar", files).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        rows.append({"file": f"{s:05d}.tar", "samples": count, "bytes": len(data), "sha256": sha256})
    (folder / "manifest.json").write_text(json.dumps({"format": "vlp-shards-1", "shards": rows}))
    return folder


@pytest.fixture
def store(server: Proxy, folder: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A bucket of its own for each test, with its indexes in the cache already, and the deadline."""
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.target}")
    server.bucket = f"train-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=server.bucket)
    store = Store(server, client, folder)
    for path in folder.iterdir():
        client.put_object(**store.key(path.name), Body=path.read_bytes())
    for path in folder.glob("*.tar"):
        OpenShard(f"{store.url}/{path.name}", Access())  # else tests would find blocks in memory that indexing has read
    server.asked.clear()
    started = time.monotonic()
    yield store
    assert time.monotonic() - started < DEADLINE
    server.faults.clear()
    server.every, server.rate = "", 0
    for held in client.list_objects_v2(Bucket=server.bucket).get("Contents", ()):
        client.delete_object(Bucket=server.bucket, Key=held["Key"])
    client.delete_bucket(Bucket=server.bucket)


def tokenizer(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[int(t) + 1] for t in texts])


def opened(store: Store, **more: Any) -> Loader:
    settings = {"lanes": 2, "window": 8, "remote": Remote(request_seconds=REQUEST_SECONDS), **more}
    stream = Stream(**{"shards": store.url, **settings})
    return stream.open(transform=RandomCrop(size=8), tokenizer=tokenizer, global_batch=10)


def keys(loader: Loader, batches: int) -> list[tuple[str, ...]]:
    """The keys of some batches; every picture and text must be its key's own, whatever happened to the requests."""
    held = []
    for _ in range(batches):
        batch = next(iter(loader))
        for key, image, text in zip(batch.keys, batch.image, batch.text, strict=True):
            assert image[:, 4, 4].tolist() == [int(key), 0, 7]
            assert int(text[0]) == int(key) + 1
        held.append(batch.keys)
    return held


def span(asked: Asked) -> tuple[int, int]:
    start, last = asked.span.removeprefix("bytes=").split("-")
    return int(start), int(last) + 1


@pytest.mark.parametrize("fault", ["reset", "slow down", "too many", "truncate", "stall"])
def test_a_request_that_breaks_is_asked_again_where_it_broke(store: Store, fault: str) -> None:
    """Two epochs: nothing is lost, nothing comes twice, and no shard is read from its beginning again."""
    want = keys(opened(store, shards=str(store.folder)), 14)
    store.proxy.faults += [fault, "", fault]
    loader = opened(store)
    assert keys(loader, 14) == want
    assert loader.ledger.dropped == 0
    assert {k for rows in want[:7] for k in rows} == {f"{n:05d}" for n in range(70)}
    asked = store.proxy.asked
    assert [a.fault for a in asked].count(fault) == 2
    for i, broken in enumerate(asked):
        if broken.fault:
            start, stop = span(broken)
            again = next(a for a in asked[i + 1 :] if a.path == broken.path and start <= span(a)[0] < stop)
            assert span(again)[1] <= stop
            if fault == "too many":
                assert again.at - broken.at >= 2.0  # what Retry-After asked for
    whole = sum((store.folder / name).stat().st_size for name in ("00000.tar", "00001.tar"))
    assert sum(b - a for a, b in map(span, asked)) <= whole + 3 * (1 << 22)


def test_workers_ride_out_the_same(store: Store) -> None:
    want = keys(opened(store, shards=str(store.folder)), 10)
    store.proxy.faults += ["reset", "slow down", "truncate"] * 2
    _filesystem.cache_clear()
    loader = opened(store, workers=Workers(count=2, start_method="fork"))
    assert keys(loader, 10) == want
    assert loader.ledger.dropped == loader.ledger.restarts == 0
    assert not store.proxy.faults
    loader.close()


def test_a_line_too_slow_for_a_block_still_gets_it(store: Store) -> None:
    file = RemoteFile(f"{store.url}/00000.tar", Patience(deadline=3.0, first_wait=0.01))
    want = (store.folder / "00000.tar").read_bytes()
    store.proxy.rate = 600_000
    assert file.read(100, 1 << 22) == want[100 : 100 + (1 << 22)]  # 7 s in all
    assert max(b - a for a, b in map(span, store.proxy.asked)) == 1 << 22
    assert sum(b - a for a, b in map(span, store.proxy.asked)) < 3 * (1 << 22)


def test_an_object_that_vanishes_under_way_is_counted_and_the_others_go_on(store: Store) -> None:
    loader = opened(store, drop_budget=1.0)
    held = keys(loader, 1)
    store.client.delete_object(**store.key("00000.tar"))
    store.proxy.asked.clear()
    held += keys(loader, 6)
    seen = Counter(key for rows in held for key in rows)
    assert {f"{n:05d}" for n in range(40, 70)} <= set(seen)  # every sample of the other shard
    assert loader.ledger.by_reason().keys() == {"unreadable shard"}
    assert {shard for _, shard in loader.ledger.drops} == {f"{store.url}/00000.tar"}
    assert loader.ledger.dropped >= 70 - len(seen) > 0
    assert sum("00000" in a.path for a in store.proxy.asked) <= 12  # not once for each sample


def test_an_object_that_is_replaced_under_way_is_not_mixed_with_its_successor(store: Store) -> None:
    """Of the same size, with other pictures: what was read before is delivered, the rest is counted."""
    loader = opened(store, drop_budget=1.0)
    held = keys(loader, 1)
    other = bytes(reversed((store.folder / "00000.tar").read_bytes()))
    store.client.put_object(**store.key("00000.tar"), Body=other)
    held += keys(loader, 6)  # looks at every picture
    assert loader.ledger.by_reason().keys() == {"changed shard"}
    assert {shard for _, shard in loader.ledger.drops} == {f"{store.url}/00000.tar"}
    assert {f"{n:05d}" for n in range(40, 70)} <= {key for rows in held for key in rows}


def test_a_download_does_not_join_two_objects(store: Store, tmp_path: Path) -> None:
    file = RemoteFile(f"{store.url}/00001.tar")
    store.client.put_object(**store.key("00001.tar"), Body=b"shorter")
    with pytest.raises(Changed, match="was changed while it was read"):
        ShardCache(tmp_path, 1 << 30).path(file, "")
    assert not list(tmp_path.glob("*.tar"))


def test_an_outage_ends_the_run_with_the_table_in_time(store: Store) -> None:
    loader = opened(store, remote=Remote(request_seconds=REQUEST_SECONDS, request_attempts=3))
    keys(loader, 1)
    store.proxy.every = "slow down"
    with pytest.raises(DropBudgetExceeded, match=rf"unreadable shard(.|\n)*{store.url}"):
        keys(loader, 100)


@pytest.mark.parametrize(("fault", "sentence"), [("gone", "FileNotFoundError"), ("expired", "token has expired")])
def test_what_is_refused_for_good_is_not_asked_for_twice(store: Store, fault: str, sentence: str) -> None:
    file = RemoteFile(f"{store.url}/00000.tar")
    store.proxy.every = fault
    with pytest.raises(Absent, match=sentence):
        file.read(0, 100)
    assert len(store.proxy.asked) == 1


def test_there_is_one_place_that_insists(store: Store) -> None:
    file = RemoteFile(f"{store.url}/00000.tar", Patience(attempts=2, first_wait=0.01))
    store.proxy.every = "slow down"
    with pytest.raises(Unreadable, match="Please reduce your request rate"):
        file.read(0, 100)
    assert len(store.proxy.asked) == 2  # not botocore's attempts times s3fs's times ours
