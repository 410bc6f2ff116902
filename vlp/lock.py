"""One writer for a folder: a second one gets an error that names the first; a dead writer's lock is taken over."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from vlp.errors import UserError

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # what file systems say that have none


@contextmanager
def locked(folder: Path, name: str = LOCK, *, what: Path | None = None, wait_s: float = 0.0) -> Iterator[None]:
    """Hold `folder` for this process; folders above it are made.

    The system itself lets go of the lock when its holder ends, however that happens. `what`: what is held, where it is
    not the folder. Raises UserError, which names the process that holds it, if there still is one after `wait_s`
    seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with _taken(what or folder, path, time.monotonic() + wait_s) as file:
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}) + "\n")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def held(folder: Path, name: str = LOCK) -> bool:
    """Whether a process holds this lock; looking at it may keep another from taking it for a moment."""
    path = folder / name
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno not in NO_LOCKS or _alive(_holder(path))
    return False


def _taken(what: Path, path: Path, until: float) -> TextIO:
    """The lock file, locked; opened anew where its last holder has just removed it, for that locks nobody out."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS or _alive(_holder(path)):
                file.close()
                if time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                raise UserError(_busy(what, path)) from None
        if _same(file, path):
            return file
        file.close()


def _same(file: TextIO, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _holder(path: Path) -> dict[str, Any]:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _busy(what: Path, path: Path) -> str:
    holder = _holder(path)
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, since {holder.get('since', '?')}"
    return f"{what} is being written by another program ({who}); wait for it, end it, or choose another folder"


def _alive(holder: dict[str, Any]) -> bool:
    """Where there are no locks: whether the process that wrote the file still runs; of another host nobody knows."""
    if not holder:
        return False
    return holder.get("host") != socket.gethostname() or Path(f"/proc/{holder.get('pid')}").exists()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
