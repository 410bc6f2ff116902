"""The one way to write a file whole: under a temporary name, safely on disk, then renamed.

Readers see the old file or the new one, never a part, whenever the writer is killed or the machine loses its power.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlp.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(UserError):
    """A disk that takes no more."""


class Partial:
    """A file that is being written under `temporary`, beside its `path`; `commit` gives it its name."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        """`shared`: several processes may write `path` at the same time, so each has a temporary name of its own."""
        own = f".{socket.gethostname()}.{os.getpid()}" if shared else ""
        self.path, self.temporary = path, path.with_name(f".{path.name}{own}.part")

    def commit(self) -> None:
        """Put what was written in place, on disk when this returns."""
        with self.temporary.open("rb") as file:
            os.fsync(file.fileno())
        self.temporary.replace(self.path)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written."""
        self.temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str | Callable[[Path], object], *, shared: bool = False) -> None:
    """Write `content`, or let it write the file it is given; folders above `path` are made.

    `shared`: as in Partial. Raises UserError when the disk is full; what stood at `path` is then still there.
    """
    partial = Partial(path, shared=shared)
    with full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if callable(content):
                content(partial.temporary)
            else:
                partial.temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
            partial.commit()
        except BaseException:
            partial.discard()
            raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder, which gets its name `path` when the context ends without an error; else nothing is left of it.

    Raises UserError if there is something at `path`, or if the disk is full.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} is there already; choose another folder, or remove it")
    temporary = path.absolute().with_name(f".{path.absolute().name}.{socket.gethostname()}.{os.getpid()}.part")
    with full_disk(path, lambda: "nothing was written"):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            sync_folder(temporary)
            temporary.replace(path)  # an empty folder gives way
            sync_folder(path.absolute().parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Make `folder`, and raise UserError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = Partial(folder / "writable", shared=True)
        probe.temporary.write_bytes(b"")
        probe.discard()
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}); choose another folder") from None


def sync_folder(folder: Path) -> None:
    """Make sure that the names in `folder` are on disk: a renamed file is not, until its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def full_disk(path: Path, left: Callable[[], str] = lambda: "what was there before is still there") -> Iterator[None]:
    """A context in which a full disk is a DiskFull that names `path` and says what is `left`; other errors pass.

    Of nested ones the outermost writes the sentence: it knows most of what is left.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFull(
            f"the disk is full ({free_mib(path):.0f} MiB free): {path} could not be written; {left()}; "
            "free some space and give the same command again"
        ) from None


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk caused `error`; torch's writer raises an error of its own after the disk's."""
    while error is not None:
        if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in DISK_FULL):
            return True
        if any(f"(os error {number})" in str(error) for number in DISK_FULL):  # what libraries written in Rust say
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def free_mib(path: Path) -> float:
    """MiB that are free where `path` is, or would be."""
    there = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
    return shutil.disk_usage(there).free / 2**20
