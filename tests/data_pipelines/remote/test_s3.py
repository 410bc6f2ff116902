"""The stream from a real S3 server (moto's) on loopback, through a proxy that breaks connections."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from data_pipelines.remote.fetch import RemoteFile, Unreadable, _filesystem
from data_pipelines.settings import Remote, Workers
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.stream import Stream
from vlp.models.image_transform import RandomCrop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
for package in ("moto", "s3fs", "boto3"):
    pytest.importorskip(package)


class Proxy:
    """Passes bytes between client and server; the next `cuts` long answers break off after 3,000 bytes."""

    def __init__(self, port: int) -> None:
        self.target, self.cuts, self.done = port, 0, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        threading.Thread(target=self._copy, args=(client, server), daemon=True).start()
        self._copy(server, client, answers=True)

    def _copy(self, source: socket.socket, sink: socket.socket, answers: bool = False) -> None:
        try:
            while data := source.recv(1 << 16):
                if answers and self.cuts and len(data) > 3000:
                    self.cuts, self.done = self.cuts - 1, self.done + 1
                    sink.sendall(data[:3000])
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # the other thread still listens: to close it would tell nobody
            end.close()


@pytest.fixture(scope="module")
def store() -> Iterator[Proxy]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    proxy = Proxy(port)
    patch = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    _filesystem.cache_clear()
    yield proxy
    patch.undo()
    server.stop()


@pytest.fixture(scope="module")
def published(store: Proxy, tmp_path_factory: pytest.TempPathFactory, make_shards: Callable[..., Path]) -> Path:
    """Shards with a manifest, in the bucket `train` under `set/` and in the folder that is returned."""
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{store.target}")
    client.create_bucket(Bucket="train")
    folder = make_shards(tmp_path_factory.mktemp("s3") / "set", (60, 45, 5))
    rows = []
    for path, count in zip(sorted(folder.glob("*.tar")), (60, 45, 5), strict=True):
        data = path.read_bytes()
        rows.append(
            {"file": path.name, "samples": count, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
    (folder / "manifest.json").write_text(json.dumps({"format": "vlp-shards-1", "shards": rows}))
    for path in folder.iterdir():
        client.put_object(Bucket="train", Key=f"set/{path.name}", Body=path.read_bytes())
    return folder


def keys(stream: Stream, batches: int = 24) -> list[tuple[str, ...]]:
    loader = stream.open(
        transform=RandomCrop(size=8), tokenizer=lambda t: torch.ones(len(t), 2, dtype=torch.int64), global_batch=10
    )
    held = [next(iter(loader)).keys for _ in range(batches)]
    assert loader.ledger.dropped == 0
    loader.close()
    return held


@pytest.mark.parametrize("cuts", [0, 5])
def test_s3_gives_what_the_folder_gives(store: Proxy, published: Path, tmp_path: Path, cuts: int) -> None:
    want = keys(Stream(shards=str(published)))
    for stream in (
        Stream(shards="s3://train/set"),
        Stream(shards="s3://train/set/{00000..00002}.tar"),
        Stream(shards="s3://train/set/*.tar"),
        Stream(shards="s3://train/set", remote=Remote(shard_cache=str(tmp_path / "cache"))),
        Stream(shards="s3://train/set", workers=Workers(count=2, start_method="fork")),
    ):
        _filesystem.cache_clear()
        store.cuts, before = cuts, store.done
        assert keys(stream) == want
        assert (store.done > before) == (cuts > 0)


def test_what_is_not_there_is_told(store: Proxy, published: Path) -> None:
    assert ShardSet.open("s3://train/set").counts == (60, 45, 5)
    with pytest.raises(Unreadable, match="FileNotFoundError"):
        RemoteFile("s3://train/set/99999.tar")
