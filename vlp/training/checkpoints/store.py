"""Checkpoints in an object store, through fsspec: a store that fails for minutes is waited out beside the training."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from vlp.errors import UserError
from vlp.training.checkpoints.manifest import MANIFEST, Damaged
from vlp.training.checkpoints.place import ASIDE, Folder, Place

T = TypeVar("T")
WAITS_S = (0.5, 1, 2, 5, 10, 20, 40, 60, 60, 60, 60)
"""Seconds between attempts to write: five minutes and some, before the run ends with a sentence."""
FINAL = (PermissionError, FileNotFoundError, NotADirectoryError)
"""What a store says again, however often it is asked."""
PACKAGES = {"s3": "s3", "gs": "cloud", "gcs": "cloud"}
"""The extra of ours that a kind of store needs."""


def place_of(url: str, run: Path) -> Place:
    """Where the checkpoints of the run in the folder `run` lie: `url`, a folder or a URL; empty: run/checkpoints.

    Raises UserError for a kind of store that is not known or not installed.
    """
    if "://" not in url:
        return Folder(Path(url) if url else run / "checkpoints")
    try:
        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        kind = url.partition("://")[0]
        extra = f": pip install 'vlp[{PACKAGES[kind]}]'" if kind in PACKAGES else ""
        raise UserError(
            f"training.checkpoints is {url}, which needs a package that is missing ({error}){extra}"
        ) from None
    except ValueError as error:
        raise UserError(
            f"training.checkpoints is {url}, which is neither a folder nor a known store ({error})"
        ) from None
    return Store(url.rstrip("/"), system, path.rstrip("/"), run)


class Store:
    """Checkpoints in an object store; parts pass through a folder of the run on their way."""

    def __init__(self, url: str, system: Any, path: str, run: Path) -> None:
        self.url, self.system, self.path, self.run = url, system, path, run
        self._writing: dict[str, Path] = {}
        self._read: Path | None = None

    def check(self) -> None:
        """As in Place: writes an object and removes it."""
        probe = f"{self.path}/writable-{time.time_ns()}"
        try:
            self.system.pipe_file(probe, b"vlp")
            self.system.rm_file(probe)
        except Exception as error:  # every store has its own
            raise UserError(
                f"training.checkpoints is {self.url}, which cannot be written to ({reason(error)}); "
                "check its name and your rights, or choose another folder"
            ) from None

    def names(self) -> list[str]:
        """As in Place."""
        found = self._insist("list", lambda: self.system.glob(f"{self.path}/step-*/{MANIFEST}"))
        return [str(path).split("/")[-2] for path in found]

    def begin(self, name: str) -> Path:
        """As in Place."""
        if name not in self._writing:
            self.run.mkdir(parents=True, exist_ok=True)
            self._writing[name] = Path(tempfile.mkdtemp(prefix=".upload-", dir=self.run))
        return self._writing[name]

    def publish(self, name: str, file: Path) -> None:
        """As in Place."""
        target, size = f"{self.path}/{name}/{file.name}", file.stat().st_size

        def put() -> None:
            self.system.put_file(str(file), target)
            if (there := int(self.system.info(target)["size"])) != size:
                raise OSError(f"{there:,} of {size:,} bytes arrived")

        self._insist("write", put)
        self.discard(name)

    def finish(self, name: str, manifest: str) -> None:
        """As in Place."""
        self._insist("write", lambda: self.system.pipe_file(f"{self.path}/{name}/{MANIFEST}", manifest.encode()))

    def discard(self, name: str) -> None:
        """As in Place."""
        if name in self._writing:
            shutil.rmtree(self._writing.pop(name), ignore_errors=True)

    def manifest(self, name: str) -> bytes:
        """As in Place."""
        return bytes(self._insist("read", lambda: self.system.cat_file(f"{self.path}/{name}/{MANIFEST}")))

    def fetch(self, name: str, file: str) -> Path:
        """As in Place."""
        if self._read is None:
            self.run.mkdir(parents=True, exist_ok=True)
            self._read = Path(tempfile.mkdtemp(prefix=".download-", dir=self.run))
        path, source = self._read / f"{name}.{file}", f"{self.path}/{name}/{file}"

        def get() -> None:
            size = int(self.system.info(source)["size"])
            self.system.get_file(source, str(path))
            if (there := path.stat().st_size) != size:
                path.unlink()
                raise OSError(f"{there:,} of {size:,} bytes arrived")

        if not path.exists():
            try:
                self._insist("read", get)
            except FileNotFoundError:
                raise Damaged(f"{file} is missing") from None
        return path

    def let_go(self) -> None:
        """As in Place."""
        if self._read is not None:
            shutil.rmtree(self._read, ignore_errors=True)
            self._read = None

    def remove(self, name: str) -> None:
        """As in Place: its manifest first."""
        for path in (f"{self.path}/{name}/{MANIFEST}", f"{self.path}/{name}"):
            self._insist("remove", partial(self._remove, path))

    def _remove(self, path: str) -> None:
        if self.system.exists(path):
            self.system.rm(path, recursive=True)

    def set_aside(self, name: str) -> None:
        """As in Place: its manifest gets another name, the rest stays where it is."""
        for former in self._insist("list", lambda: self.system.glob(f"{self.path}/step-*/{MANIFEST}{ASIDE}")):
            self._insist("remove", partial(self._remove, str(former).rsplit("/", 1)[0]))
        path = f"{self.path}/{name}/{MANIFEST}"
        self._insist("rename", lambda: self.system.mv(path, path + ASIDE))

    def tidy(self) -> None:
        """As in Place; parts without a manifest are removed from the store, and scratch folders from the run's."""
        for left in [*self.run.glob(".upload-*"), *self.run.glob(".download-*")]:
            shutil.rmtree(left, ignore_errors=True)
        complete = set(self.names())
        every = self._insist("list", lambda: self.system.glob(f"{self.path}/step-*/rank-*"))
        aside = self._insist("list", lambda: self.system.glob(f"{self.path}/step-*/{MANIFEST}{ASIDE}"))
        kept = complete | {str(path).split("/")[-2] for path in aside}
        for name in {str(path).split("/")[-2] for path in every} - kept:
            self.remove(name)

    def _insist(self, what: str, ask: Callable[[], T]) -> T:
        """What `ask` gives at last. Raises FINAL errors at once, UserError when the store has failed for minutes."""
        for wait in (*WAITS_S, None):
            try:
                return ask()
            except FileNotFoundError:
                raise
            except Exception as error:  # every store has its own; what is not final may pass
                if wait is None or isinstance(error, FINAL):
                    raise UserError(
                        f"the store of the checkpoints, {self.url}, could not {what} ({reason(error)}); "
                        "the checkpoints before are still there: give the same command again to go on from the newest"
                    ) from None
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


def reason(error: BaseException) -> str:
    """What a store said, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
