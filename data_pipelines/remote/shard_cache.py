"""Remote shards kept on the local disk: whole files, checked, and no more of them than the limit."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.remote.fetch import RemoteFile, Unreadable

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
            digest = hashlib.sha256()
            with open(partial, "a+b") as out:
                out.seek(0)
                while block := out.read(CHUNK):
                    digest.update(block)
                while out.tell() < file.size:
                    block = file.read(out.tell(), CHUNK)
                    digest.update(block)
                    out.write(block)
            if not sha256 or digest.hexdigest() == sha256:
                os.replace(partial, done)
                return
            partial.unlink()
        raise Unreadable(f"{file.url} has the sha256 {digest.hexdigest()}, but its manifest says {sha256}")

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
