"""A real service: uvicorn in a thread, on a port of its own, over a real index."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

from eval.index.flat import Flat
from eval.search.build import build_gallery
from eval.service.app import create_app
from eval.service.current import Current
from eval.service.serve import listening
from eval.service.settings import Settings
from vlp.models.release import Release

Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def index(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gallery(release, str(shards), tmp_path_factory.mktemp("served") / "index", kind=Flat()).folder


@contextmanager
def serving(folder: Path, *, key: str = "", **settings: Any) -> Iterator[str]:
    """The address of a service over the index in `folder`, until the block ends."""
    allowed = Settings(**{"port": 0, "rate": 0.0, "look_every": 0.05, **settings})
    made = listening(allowed)
    app = create_app(Current(folder), allowed, key)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, proxy_headers=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [made]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{made.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        made.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve() -> Serving:
    return serving


@pytest.fixture(scope="session")
def address(index: Path) -> Iterator[str]:
    """A service with small limits."""
    with serving(index, most_body=20_000, most_pixels=10_000, most_text=40, most_k=50, most_parts=4) as url:
        yield url


@pytest.fixture(scope="session")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        yield made
