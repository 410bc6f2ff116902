"""Bytes of shards by position: local files, and object stores through fsspec.

A remote read is split into requests of one block. A request that fails, stalls or comes back short is asked again, in
smaller and smaller parts, from the byte where it broke; what a store refuses for good (not found, not allowed) is not.
Every part must come from the object that was opened: one that is replaced meanwhile raises Changed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any

from data_pipelines.remote import http
from data_pipelines.remote.background import Background
from data_pipelines.remote.patience import Absent as Absent
from data_pipelines.remote.patience import Changed as Changed
from data_pipelines.remote.patience import Patience as Patience
from data_pipelines.remote.patience import Unreadable as Unreadable
from vlp.errors import UserError

LEAST_PART = 1 << 16  # bytes; a request that failed is not made smaller than this
ONE_ATTEMPT = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}  # of botocore: it is `Patience` that insists
OPTIONS = {"s3": ONE_ATTEMPT, "s3a": ONE_ATTEMPT}


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
            data = os.pread(self._handle, length, start)
            while data and len(data) < length and start + len(data) < self.size:
                more = os.pread(self._handle, length - len(data), start + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise Unreadable(str(error)) from None
        return data

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


def cache_home() -> Path:
    """The folder of everything that can be made again: $VLP_CACHE, else ~/.cache/vlp."""
    return Path(os.environ.get("VLP_CACHE") or Path.home() / ".cache" / "vlp")


@cache
def _filesystem(protocol_url: str, pid: int) -> Any:
    """The fsspec file system of a URL's scheme and host, one for each process (`pid` is why)."""
    scheme = protocol_url.split("://", maxsplit=1)[0]
    try:
        import fsspec

        options = {"use_listings_cache": False, "skip_instance_cache": True, **OPTIONS.get(scheme, {})}
        fs = fsspec.core.url_to_fs(protocol_url, **options)[0]
    except ImportError as error:
        raise UserError(
            f'{scheme}:// needs a package that is not installed ({error}): pip install "vlp[cloud]"'
        ) from None
    except ValueError as error:
        raise UserError(f'"{protocol_url}" cannot be read: {error}') from None
    if scheme in OPTIONS:
        fs.retries = 1
    return fs


def _open(url: str) -> tuple[Any, str]:
    scheme, _, rest = url.partition("://")
    fs = _filesystem(f"{scheme}://{rest.split('/')[0]}", os.getpid())
    return fs, fs._strip_protocol(url)


class RemoteFile:
    """An object of a store, as it was when it was opened.

    Raises Unreadable when it cannot be had within the patience, Absent if the store says no.
    """

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self.url, self.patience = url, patience or Patience()
        info = self.patience.insist(url, lambda _: self._info())
        if info.get("size") == 0:
            raise Unreadable(f"{url} is empty (0 bytes): copy it again")
        if not info.get("size"):
            raise Unreadable(f"{url}: the store does not tell its size")
        self.size, self.version = int(info["size"]), _version(info)
        self._web = url.startswith(("http://", "https://"))
        tag = str(info.get("ETag") or "")
        self._tag = "" if tag.startswith("W/") else tag  # a weak one never counts as equal

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
        """Bytes of the very object that was opened. Raises Changed, or an error whose status says so."""
        fs, path = _open(self.url)
        if self._tag and hasattr(fs, "_call_s3"):
            return bytes(self._limited(fs, _s3_range, fs, path, start, stop, tag=self._tag, size=self.size))
        if self._web:
            condition = {"If-Match": self._tag} if self._tag else {}
            got = bytes(self._limited(fs, http.ranged, fs, path, start, stop, size=self.size, headers=condition))
            if self._tag:
                return got
        elif hasattr(fs, "_cat_file") and fs.async_impl:
            got = bytes(self._limited(fs, fs._cat_file, path, start=start, end=stop))
        else:
            got = bytes(fs.cat_file(path, start=start, end=stop))
        if _version(self._info()) != self.version:  # a store that takes no condition is asked afterwards
            raise Changed(f"{self.url} was changed while it was read")
        return got

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer only at the end of the object."""
        stop, data = min(start + length, self.size), bytearray()
        part = stop - start

        def ask(attempt: int) -> bytes:
            nonlocal part
            part = max(LEAST_PART, part >> 1) if attempt else part  # a slow line brings less within the deadline
            at = start + len(data)
            return self._some(at, min(stop, at + part))

        while start + len(data) < stop:
            data += self.patience.insist(self.url, ask)
        return bytes(data[: stop - start])

    def _some(self, start: int, stop: int) -> bytes:
        got = self._range(start, stop)
        if not got:
            raise OSError("an empty answer")
        if len(got) > stop - start:
            raise OSError(f"{stop - start} bytes were asked for, and {len(got)} came")
        return got

    def whole(self, begin: Callable[[], Callable[[bytes], object]]) -> None:
        """Hand over the whole object, of a server that has no ranges, piece by piece; `begin` gives who takes them.

        It is called anew for each attempt. Raises Unreadable.
        """
        from fsspec.asyn import sync

        fs, path = _open(self.url)

        def ask(_: int) -> None:
            sync(fs.loop, http.whole, fs, path, begin(), size=self.size, deadline=self.patience.deadline)

        self.patience.insist(self.url, ask)
        if _version(self._info()) != self.version:
            raise Changed(f"{self.url} was changed while it was read")


def _version(info: Any) -> str:
    """What changes when an object is replaced."""
    names = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "updated")
    return f"{info.get('size')} {next((info[name] for name in names if info.get(name)), '')}"


async def _s3_range(fs: Any, path: str, start: int, stop: int, *, tag: str, size: int) -> bytes:
    """Bytes of an S3 object, if it still has this ETag."""
    bucket, key, _ = fs.split_path(path)
    span = {"Range": f"bytes={start}-{stop - 1}", "IfMatch": tag}
    got = await fs._call_s3("get_object", Bucket=bucket, Key=key, **span, **fs.req_kw)
    try:
        data = bytes(await got["Body"].read())
    finally:
        got["Body"].close()
    http.check_range(path, str(got.get("ContentRange", "")), (start, stop), size=size, length=len(data))
    return data


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
        data = b"".join(w.result() for w in waiting)
        return data[start - first * block : stop - first * block]

    def expect(self, start: int, stop: int) -> None:
        """Begin to fetch the blocks of [start, stop) without waiting for them."""
        for b in range(start // self.store.block, (max(stop, start + 1) - 1) // self.store.block + 1):
            self.store.get(self.file, b)


class BlockStore:
    """Blocks of remote files in memory, the least recently used dropped first; fetched by a few threads."""

    def __init__(self, limit: int, *, block: int = 1 << 22, threads: int = 8) -> None:
        self.block, self.limit, self.threads = block, limit, threads
        self._blocks: OrderedDict[tuple[str, str, int], Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self._background = Background(threads, "vlp-fetch")
        self._pid = os.getpid()

    def get(self, file: RemoteFile, number: int) -> Future[bytes]:
        """Block `number` of `file`, perhaps still on its way."""
        key = (file.url, file.version, number)
        with self._lock:
            if self._pid != os.getpid():  # nobody here fetches what was under way in the parent
                self._pid = os.getpid()
                self._blocks.clear()
            block = self._blocks.get(key)
            if block is None or (block.done() and block.exception() is not None):
                block = self._blocks[key] = self._background.submit(file.read, number * self.block, self.block)
            self._blocks.move_to_end(key)
            while len(self._blocks) > max(2, self.limit // self.block):
                self._blocks.popitem(last=False)
        return block

    def clear(self) -> None:
        """Keep no block."""
        with self._lock:
            self._blocks.clear()

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
    except Absent:
        return False
    except Unreadable as error:
        raise UserError(f"cannot look for {error}") from None
    return True


def listing(url: str) -> list[str]:
    """The objects right under `url`, as URLs. Raises UserError if the store cannot list."""
    fs, path = _open(url)
    try:
        paths = Patience().insist(f'"{url}"', lambda _: fs.ls(path, detail=False))
    except Unreadable as error:
        raise UserError(f"cannot list {error}: give a brace range instead") from None
    return [fs.unstrip_protocol(p) if "://" not in p else p for p in paths]
