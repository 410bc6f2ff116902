"""One shard on disk: the same samples give the same bytes, and a half-written tar never has a tar's name."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from pathlib import Path
from typing import IO, Protocol

from data_pipelines.shards.manifest import ShardRecord
from vlp.files import Partial


class Packed(Protocol):
    """A sample as a tar takes it."""

    @property
    def key(self) -> str:
        """Its name, the same in all its files."""
        ...

    def members(self) -> tuple[tuple[str, bytes], ...]:
        """(name, bytes) of its files."""
        ...


class TarWriter:
    """Writes samples to a temporary file; `close` gives it its name, `abandon` removes it."""

    def __init__(self, path: Path) -> None:
        self.path, self._partial = path, Partial(path)
        self.samples = 0
        self._keys: set[str] = set()
        self._file = _Summed(self._partial.temporary.open("wb"))
        self._tar = tarfile.TarFile(
            fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT
        )  # differs for long names alone

    @property
    def bytes(self) -> int:
        """Bytes written so far."""
        return self._file.written

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, sample: Packed) -> None:
        """Append the files of `sample`. Raises OSError if the disk takes no more."""
        for name, data in sample.members():
            info = tarfile.TarInfo(name)  # owner 0, time 0, mode 0644: nothing of this machine or hour
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
        self._keys.add(sample.key)
        self.samples += 1

    def close(self) -> ShardRecord:
        """The finished shard, under its own name and safely on disk."""
        self._tar.close()
        self._file.handle.close()
        self._partial.commit()
        return ShardRecord(self.path.name, self.samples, self._file.written, self._file.sum.hexdigest())

    def abandon(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError):  # the last buffer may not fit a full disk; the file goes away anyway
            self._file.handle.close()
        self._partial.discard()


class _Summed(io.RawIOBase):
    """A file that knows its length and sha256 as it is written."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.handle, self.sum, self.written = handle, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        block = bytes(data)  # type: ignore[call-overload]
        self.handle.write(block)
        self.sum.update(block)
        self.written += len(block)
        return len(block)

    def tell(self) -> int:
        return self.written
