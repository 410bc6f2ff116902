"""Bytes of shards by position: local files, and object stores through fsspec."""

from __future__ import annotations

import os
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


def cache_home() -> Path:
    """The folder of everything that can be made again: $VLP_CACHE, else ~/.cache/vlp."""
    return Path(os.environ.get("VLP_CACHE") or Path.home() / ".cache" / "vlp")
