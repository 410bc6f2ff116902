"""Bytes of shards by position: local files, and object stores through fsspec.

A remote read is split into requests of one block. A request that fails, stalls or comes back short is asked again from
the byte where it broke; what a store refuses for good (not found, not allowed) is not.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vlp.errors import UserError


class Unreadable(Exception):
    """A shard, or a part of it, that cannot be read."""


class LocalFile:
    """A file on this machine; `read` is thread-safe and moves no position."""

    def __init__(self, path: str) -> None:
        try:
            self._handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise Unreadable(f"{path}: {error.strerror}") from None
        facts = os.fstat(self._handle)
        self.size, self.version = facts.st_size, f"{facts.st_size} {facts.st_mtime_ns}"

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer only at the end of the file."""
        try:
            held = os.pread(self._handle, length, start)
            while held and len(held) < length and start + len(held) < self.size:
                more = os.pread(self._handle, length - len(held), start + len(held))
                if not more:
                    break
                held += more
        except OSError as error:
            raise Unreadable(str(error)) from None
        return held

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


@dataclass(frozen=True)
class Patience:
    """How long a remote store is waited for."""

    attempts: int = 8
    """requests in a row that may bring nothing, before a read is given up"""
    first_wait: float = 0.2
    """seconds before the second attempt; doubled after each, with jitter"""
    longest_wait: float = 20.0
    """seconds between attempts, at most"""
    deadline: float = 60.0
    """seconds for one request (one block)"""


def cache_home() -> Path:
    """The folder of everything that can be made again: $VLP_CACHE, else ~/.cache/vlp."""
    return Path(os.environ.get("VLP_CACHE") or Path.home() / ".cache" / "vlp")


@cache
def _filesystem(protocol_url: str, pid: int) -> Any:
    """The fsspec file system of a URL's scheme and host, one for each process (`pid` is why)."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(protocol_url)[0]
    except ImportError as error:
        scheme = protocol_url.split("://", maxsplit=1)[0]
        raise UserError(
            f'{scheme}:// needs a package that is not installed ({error}): pip install "vlp[cloud]"'
        ) from None
    except ValueError as error:
        raise UserError(f'"{protocol_url}" cannot be read: {error}') from None


def _open(url: str) -> tuple[Any, str]:
    scheme, _, rest = url.partition("://")
    fs = _filesystem(f"{scheme}://{rest.split('/')[0]}", os.getpid())
    return fs, fs._strip_protocol(url)


class RemoteFile:
    """An object of a store. Raises Unreadable when it cannot be had within the patience."""

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self.url, self.patience = url, patience or Patience()
        info = self._insist(self._info)
        if not info.get("size"):
            raise Unreadable(f"{url}: the store does not tell its size, or it is empty")
        self.size = int(info["size"])
        tag = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
        self.version = f"{self.size} {tag}"

    def _info(self) -> Any:
        fs, path = _open(self.url)
        if hasattr(fs, "_info") and fs.async_impl:
            return self._limited(fs, fs._info, path)
        return fs.info(path)

    def _limited(self, fs: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        """The result of an asynchronous fsspec method; cancelled at the deadline."""
        from fsspec.asyn import sync

        async def limited() -> Any:
            return await asyncio.wait_for(method(*args, **kwargs), self.patience.deadline)

        return sync(fs.loop, limited)

    def _range(self, start: int, stop: int) -> bytes:
        fs, path = _open(self.url)
        if hasattr(fs, "_cat_file") and fs.async_impl:
            return bytes(self._limited(fs, fs._cat_file, path, start=start, end=stop))
        return bytes(fs.cat_file(path, start=start, end=stop))

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer only at the end of the object."""
        stop, held = min(start + length, self.size), bytearray()
        while start + len(held) < stop:
            at = start + len(held)
            held += self._insist(lambda at=at: self._some(at, stop))
        return bytes(held[: stop - start])

    def _some(self, start: int, stop: int) -> bytes:
        got = self._range(start, stop)
        if not got:
            raise OSError("an empty answer")
        if len(got) > stop - start and start > 0:
            raise UserError(f"{self.url}: the server ignores byte ranges; set shard_cache, or copy the shards")
        return got

    def _insist(self, ask: Any) -> Any:
        """What `ask` returns at last: transient failures are waited out, with growing pauses."""
        for attempt in range(self.patience.attempts):
            try:
                return ask()
            except UserError:
                raise
            except (FileNotFoundError, PermissionError) as error:
                raise Unreadable(f"{self.url}: {type(error).__name__}: {error}") from None
            except Exception as error:  # every store has its own; all that are not final may pass
                if attempt + 1 == self.patience.attempts:
                    raise Unreadable(f"{self.url}: {type(error).__name__}: {error}") from None
                wait = min(self.patience.longest_wait, self.patience.first_wait * 2**attempt)
                time.sleep(wait * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")


class Blocks:
    """A remote file read block by block, the latest of them kept; blocks can be asked for before they are needed."""

    def __init__(self, file: RemoteFile, store: BlockStore) -> None:
        self.file, self.store = file, store
        self.size, self.version = file.size, file.version

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer only at the end."""
        stop, block = min(start + length, self.size), self.store.block
        if stop <= start:
            return b""
        first, last = start // block, (stop - 1) // block
        waiting = [self.store.get(self.file, b) for b in range(first, last + 1)]
        held = b"".join(w.result() for w in waiting)
        return held[start - first * block : stop - first * block]

    def expect(self, start: int, stop: int) -> None:
        """Begin to fetch the blocks of [start, stop) without waiting for them."""
        for b in range(start // self.store.block, (max(stop, start + 1) - 1) // self.store.block + 1):
            self.store.get(self.file, b)


class BlockStore:
    """Blocks of remote files in memory, the least recently used dropped first; fetched by a few threads."""

    def __init__(self, limit: int, *, block: int = 1 << 22, threads: int = 8) -> None:
        self.block, self.limit, self.threads = block, limit, threads
        self._held: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()

    def get(self, file: RemoteFile, number: int) -> Future[bytes]:
        """Block `number` of `file`, perhaps still on its way."""
        key = (file.url, number)
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                self._pool, self._pid = ThreadPoolExecutor(self.threads, "vlp-fetch"), os.getpid()
                self._held.clear()
            held = self._held.get(key)
            if held is None or (held.done() and held.exception() is not None):
                held = self._held[key] = self._pool.submit(file.read, number * self.block, self.block)
            self._held.move_to_end(key)
            while len(self._held) > max(2, self.limit // self.block):
                self._held.popitem(last=False)
        return held

    def __getstate__(self) -> dict[str, Any]:
        return {"block": self.block, "limit": self.limit, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        BlockStore.__init__(self, state["limit"], block=state["block"], threads=state["threads"])


def read_small(url: str) -> bytes:
    """All bytes of a small remote object (a manifest, an index). Raises UserError if it cannot be had."""
    try:
        file = RemoteFile(url)
        return file.read(0, file.size)
    except Unreadable as error:
        raise UserError(f"cannot read {error}") from None


def exists(url: str) -> bool:
    """Whether there is an object at `url`; False if the store says no, UserError if it says nothing."""
    try:
        RemoteFile(url)
    except Unreadable as error:
        if "FileNotFoundError" in str(error) or "PermissionError" in str(error):
            return False
        raise UserError(f"cannot look for {error}") from None
    return True


def listing(url: str) -> list[str]:
    """The objects right under `url`, as URLs. Raises UserError if the store cannot list."""
    fs, path = _open(url)
    try:
        found = fs.ls(path, detail=False)
    except Exception as error:  # every store has its own
        raise UserError(f'cannot list "{url}" ({type(error).__name__}: {error}): give a brace range instead') from None
    return [fs.unstrip_protocol(p) if "://" not in p else p for p in found]
