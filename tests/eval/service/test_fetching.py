"""Addresses that a question names: public ones alone, and no more than is allowed of them."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from eval.service import fetching
from eval.service.fetching import fetched, is_public
from vlp.errors import UserError

V4 = """127.0.0.1 127.1.2.3 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 224.0.0.1
255.255.255.255"""
V6 = """::1 :: fe80::1 fe80::1%lo fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 2002:7f00:1:: 2002:a00:1::"""


@pytest.mark.parametrize("address", f"{V4} {V6}".split())
def test_private_addresses_are_no_public_ones(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:4700::1111"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *(
            f"http://{host}/x.png"
            for host in ("127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "0", "[::ffff:7f00:1]")
        ),
        *(
            "file:///etc/passwd",
            "ftp://example.org/x",
            "gopher://127.0.0.1",
            "//127.0.0.1/x",
            "/etc/passwd",
            "",
            "http://",
        ),
        *(
            "http://user@example.org/",
            "http://[",
            "http://127.0.0.1:99999/",
            "http://169.254.169.254/latest/meta-data/",
        ),
    ],
)
def test_nothing_private_is_fetched(url: str, index: Path, serve: Any) -> None:
    with pytest.raises(UserError, match="address of the picture"):
        fetched(url, 1000, 1.0)


def test_a_service_that_may_fetch_refuses_private_addresses_too(index: Path, serve: Any) -> None:
    with serve(index, fetch_urls=True) as address:
        answer = requests.post(f"{address}/search", {"image_url": f"{address}/metrics"})
        assert (answer.status_code, "private" in answer.json()["detail"]) == (422, True)


class Pictures(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/small")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        for _ in range({"/small": 1, "/large": 50, "/slow": 50}[self.path]):
            try:
                self.wfile.write(b"x" * 100)
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.1 if self.path == "/slow" else 0)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server at a private address, which this test counts as a public one."""
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_bytes_come_within_their_limits_and_redirects_are_not_followed(here: str) -> None:
    assert fetched(f"{here}/small", 1000, 5.0) == b"x" * 100
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        fetched(f"{here}/large", 1000, 5.0)
    with pytest.raises(UserError, match="answers 302"):
        fetched(f"{here}/moved", 1000, 5.0)
    start = time.monotonic()
    with pytest.raises(UserError, match="takes too long"):
        fetched(f"{here}/slow", 100_000, 0.5)
    assert time.monotonic() - start < 3
