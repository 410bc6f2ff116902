"""Remote shards kept on the local disk: whole files, checked, and no more of them than the limit."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.remote.fetch import LocalFile, RemoteFile, Unreadable
from data_pipelines.remote.http import NoRanges
from data_pipelines.shards.checks import refuse_strange

CHUNK = 1 << 22


@dataclass(frozen=True)
class ShardCache:
    """A folder that several processes share; a shard is downloaded by one of them while the others wait."""

    folder: Path
    limit: int  # bytes

    def path(self, file: RemoteFile, sha256: str) -> Path:
        """The local copy of `file`, downloaded if need be; an interrupted download is taken up where it stopped.

        Raises Unreadable if it cannot be had, or twice has another checksum than `sha256` (empty: not checked).
        """
        name = hashlib.sha256(f"{file.url} {file.version}".encode()).hexdigest()[:32]
        done = self.folder / f"{name}.tar"
        if not _touched(done, file.size):
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / f"{name}.lock"):
                if not _touched(done, file.size):
                    self._download(file, done, sha256)
        return done

    def _download(self, file: RemoteFile, done: Path, sha256: str) -> None:
        partial = done.with_suffix(".part")
        self._make_room(file.size)
        for _ in range(2):
            try:
                digest = _in_ranges(file, partial)
            except NoRanges:
                digest = _at_once(file, partial)
            if sha256 and digest != sha256:
                partial.unlink()
                continue
            try:
                refuse_strange(file.url, LocalFile(str(partial)))
            except Unreadable:
                partial.unlink()
                raise
            os.replace(partial, done)
            return
        raise Unreadable(f"{file.url} has the sha256 {digest}, but its manifest says {sha256}")

    def _make_room(self, size: int) -> None:
        """Delete the copies that were not opened for longest, until `size` more bytes fit the limit."""
        copies = []
        for path in self.folder.glob("*.tar"):
            with suppress(OSError):
                facts = path.stat()
                copies.append((facts.st_mtime_ns, facts.st_size, path))
        total = sum(n for _, n, _ in copies)
        for _, n, path in sorted(copies):
            if total + size <= self.limit:
                break
            path.unlink(missing_ok=True)  # a process that has it open keeps its bytes
            total -= n


def _in_ranges(file: RemoteFile, partial: Path) -> str:
    """Download what `partial` lacks of `file`; the checksum of all of it."""
    digest = hashlib.sha256()
    with open(partial, "a+b") as out:
        out.seek(0)
        while block := out.read(CHUNK):
            digest.update(block)
        while out.tell() < file.size:
            block = file.read(out.tell(), CHUNK)
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def _at_once(file: RemoteFile, partial: Path) -> str:
    """Download `file` from its beginning to its end, of a server that has no ranges; its checksum."""
    with open(partial, "wb") as out:

        def begin() -> Callable[[bytes], object]:
            out.seek(0)
            out.truncate()
            return out.write

        file.whole(begin)
    with open(partial, "rb") as copy:
        return hashlib.file_digest(copy, "sha256").hexdigest()


def _touched(path: Path, size: int) -> bool:
    """Whether the copy is there and whole; it then counts as used now."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except OSError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the system releases it even if this process is killed."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
