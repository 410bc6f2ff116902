"""A web server that answers wrongly in ten ways: what is lost is counted, and nothing wrong is kept."""

from __future__ import annotations

import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.faults import tars
from data_pipelines.settings import Remote
from data_pipelines.shards import open_shards
from data_pipelines.stream import Stream
from vlp.errors import UserError

PAGE = b"<html><title>Please log in</title>" + b" " * 400 + b"</html>"
KINDS = (
    *("page", "page of its size", "another range", "another size", "no range named", "shorter than named"),
    *("no ranges", "not found", "busy", "cut off"),
)
COUNTS = (30, 25, 5)


class Server(ThreadingHTTPServer):
    """Objects by path; the next `left` answers that hold a part of a tar are of a `wrong` kind."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.wrong, self.left = "", 1 << 30
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may leave."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        """The header of the object."""
        self.answer(body=False)

    def do_GET(self) -> None:
        """The object, or the part of it that is asked for."""
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        """Rightly or wrongly."""
        data = self.server.objects.get(self.path)
        if data is None:
            self.send_error(404)
            return
        wrong = ""
        if (body or self.server.wrong == "page of its size") and self.server.left > 0 and self.path.endswith(".tar"):
            wrong, self.server.left = self.server.wrong, self.server.left - 1
        if wrong in ("not found", "busy"):
            self.send_error(404 if wrong == "not found" else 503)
        elif wrong.startswith("page"):
            self.send(200, PAGE, {"Content-Type": "text/html"}, body=body)
        elif wrong == "cut off":
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 99999\r\n\r\nhalf a li")
        elif not (asked := self.headers.get("Range")) or wrong == "no ranges":
            self.send(200, data, {}, body=body)
        else:
            self.part(data, asked, wrong, body=body)

    def part(self, data: bytes, asked: str, wrong: str, *, body: bool) -> None:
        """A part, rightly or with a wrong range, size or length."""
        a, b = asked.removeprefix("bytes=").split("-")
        first, last = int(a), min(int(b) if b else 1 << 60, len(data) - 1)
        if wrong == "another range":
            first, last = first + 512, min(last + 512, len(data) - 1)
        total = len(data) + 512 * (wrong == "another size")
        headers = {} if wrong == "no range named" else {"Content-Range": f"bytes {first}-{last}/{total}"}
        part = data[first : last + 1]
        self.send(206, part[:-100] if wrong == "shorter than named" else part, headers, body=body)

    def send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        """One answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def attack(folder: Path, rng: random.Random, size: int) -> dict[str, tuple[int, str]]:
    """Each kind, at a random moment of an epoch, with and without manifest and shard cache; then the server is well."""
    open_shards.FORGET_SECONDS = 0.0  # a shard that failed is asked for again at once
    uncounted = 0
    for n, kind in enumerate(KINDS[:size]):
        for manifest in (True, False):
            for cached in (True, False):
                here = folder / f"{n}-{manifest}-{cached}"
                uncounted += one(here, rng, kind, manifest=manifest, cached=cached)
    return {"uncounted": (uncounted, f"samples, of {size} kinds of wrong answers")}


def one(folder: Path, rng: random.Random, kind: str, *, manifest: bool, cached: bool) -> int:
    """Samples that are neither delivered nor counted while the server is wrong, and all that are missing afterwards."""
    where = tars.shards(folder / "set", COUNTS, manifest=manifest)
    server = Server()
    server.objects = {f"/set/{path.name}": path.read_bytes() for path in (folder / "set").iterdir()}
    remote = Remote(
        index_cache=str(folder / "index"), request_attempts=2, shard_cache=str(folder / "shards") if cached else ""
    )
    spec = f"{server.url}/set" + ("" if manifest else "/{00000..00002}.tar")
    stream = Stream(shards=spec, drop_budget=1.0, remote=remote)
    server.wrong, server.left = kind, rng.randint(1, 12)
    uncounted = 0
    try:
        keys, ledger = tars.epoch(tars.opened(stream, 6))
        uncounted += max(0, len(where) - len(keys) - ledger.lost)
    except UserError:
        pass  # refused, with a sentence
    server.wrong = ""
    keys, ledger = tars.epoch(tars.opened(stream, 6))
    server.shutdown()
    server.server_close()
    return uncounted + len(where) - len(keys)
