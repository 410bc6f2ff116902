"""Checkpoints in a real S3 server (moto's) on loopback, behind a proxy that breaks connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Tiny, TinyStream, trainer

from vlp.errors import UserError
from vlp.training.checkpoints import store as store_module
from vlp.training.checkpoints.place import Folder
from vlp.training.checkpoints.store import Store, place_of
from vlp.training.trainer import Training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
for package in ("moto", "s3fs", "boto3"):
    pytest.importorskip(package)

BASE = Training(samples=12 * 16, batch=16, log_every=3, ema=0.9, tensorboard=False, checkpoint_every=0.0, keep=2)


class Proxy:
    """Passes bytes on; while `broken` is above 0, so many connections are cut off in the middle, both ways."""

    def __init__(self, port: int) -> None:
        self.target, self.broken, self.done = port, 0, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.broken and len(data) > 2000:
                    self.broken, self.done = self.broken - 1, self.done + 1
                    sink.sendall(data[:2000])
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    between = Proxy(port)
    patch = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between.port}")
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket="runs")
    yield between
    patch.undo()
    server.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WAITS_S", (0.05,) * 6)


def keys(prefix: str) -> list[str]:
    import s3fs

    system = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    return sorted(path.removeprefix(f"runs/{prefix}/") for path in system.find(f"runs/{prefix}"))


class Stop(Exception):
    pass


class Breaks(TinyStream):
    def __iter__(self) -> Iterator[Any]:
        for n, batch in enumerate(super().__iter__()):
            if n == 7:
                raise Stop
            yield batch


@pytest.mark.parametrize("broken", [0, 12])
def test_a_run_resumes_from_a_store_to_the_bit(proxy: Proxy, tmp_path: Path, broken: int) -> None:
    """Also where connections break while parts are written and read; and another machine has nothing but the store."""
    whole = trainer(tmp_path / "whole", BASE).fit()
    remote = replace(BASE, checkpoints=f"s3://runs/a{broken}")
    proxy.broken, proxy.done = broken, 0
    with pytest.raises(Stop):
        replace(trainer(tmp_path / "here", remote), open_stream=lambda state: Breaks(state, batch=16)).fit()
    again = trainer(tmp_path / "there", remote, model=Tiny(seed=5)).fit()
    assert proxy.done == broken - proxy.broken
    assert proxy.done >= min(broken, 5)
    proxy.broken = 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    )
    assert keys(f"a{broken}") == [
        f"step-000000{step}/{file}" for step in (11, 12) for file in ("manifest.json", "rank-00000.safetensors")
    ]
    assert not list(tmp_path.glob("*/.upload-*"))
    assert not list(tmp_path.glob("*/.download-*"))


def test_what_was_half_written_is_no_checkpoint_and_a_damaged_one_gives_way(
    proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import s3fs

    remote = replace(BASE, checkpoints="s3://runs/b", keep=3)
    trainer(tmp_path, remote).fit()
    system = s3fs.S3FileSystem(use_listings_cache=False)
    system.rm("runs/b/step-00000012/manifest.json")  # a writer that was killed before its end
    system.rm("runs/b/step-00000011/rank-00000.safetensors")
    capsys.readouterr()
    fitted = trainer(tmp_path, remote, model=Tiny(seed=5)).fit()
    assert fitted.steps == 12
    said = capsys.readouterr().err
    assert "step-00000011 is damaged (rank-00000.safetensors is missing); trying the one before" in said
    assert "step-00000011/manifest.json.aside" in keys("b")


def test_without_rights_there_is_one_sentence_before_the_first_step(tmp_path: Path, proxy: Proxy) -> None:
    def never(state: Any) -> TinyStream:
        raise AssertionError("the stream was opened")

    remote = replace(BASE, checkpoints="s3://not-ours/run")
    with pytest.raises(
        UserError, match=r"training.checkpoints is s3://not-ours/run, which cannot be written to \(.*check"
    ):
        replace(trainer(tmp_path, remote), open_stream=never).fit()


def test_a_store_that_stays_away_ends_the_run_with_a_sentence(
    tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "WAITS_S", (0.05,))
    remote = replace(BASE, checkpoints="s3://runs/c")

    class Away(TinyStream):
        def __iter__(self) -> Iterator[Any]:
            for n, batch in enumerate(super().__iter__()):
                proxy.broken = 10**6 if n >= 3 else 0
                yield batch

    with pytest.raises(
        UserError, match=r"the store of the checkpoints, s3://runs/c, could not write .*before are still"
    ):
        replace(trainer(tmp_path, remote), open_stream=lambda state: Away(state, batch=16)).fit()
    proxy.broken = 0
    assert trainer(tmp_path, remote, model=Tiny(seed=5)).fit().steps == 12


def test_names_of_places(tmp_path: Path) -> None:
    assert isinstance(place_of("", tmp_path), Folder)
    assert place_of("", tmp_path).url == str(tmp_path / "checkpoints")
    assert place_of(str(tmp_path / "elsewhere"), tmp_path).url == str(tmp_path / "elsewhere")
    assert isinstance(place_of("memory://runs/x/", tmp_path), Store)
    with pytest.raises(UserError, match="neither a folder nor a known store"):
        place_of("nowhere://runs", tmp_path)
