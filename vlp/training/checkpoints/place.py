"""Where the checkpoints of a run lie: a folder of this machine or of the cluster, or a folder of an object store.

A checkpoint is a folder of its own. On a file system it is written as step-N.partial, and renamed when all of it is on
disk. An object store cannot rename: there a checkpoint counts when its manifest is there, which is written last.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Protocol

from vlp.files import check_writable, sync_folder, write_whole
from vlp.training.checkpoints.manifest import MANIFEST

PARTIAL = ".partial"  # ending of what is being written, or removed
ASIDE = ".aside"  # ending of what was passed over: it is kept to be looked at, and no checkpoint any more


class Place(Protocol):
    """Where checkpoints lie; `name` is that of a checkpoint's folder."""

    url: str
    """the folder of the checkpoints, as the user writes it"""

    def check(self) -> None:
        """Raise UserError if nothing can be written here."""

    def names(self) -> list[str]:
        """Checkpoints that were completed, in any order."""

    def begin(self, name: str) -> Path:
        """A folder of this machine into which a rank writes its part."""

    def publish(self, name: str, file: Path) -> None:
        """`file` has been written into what `begin` gave: make it safe."""

    def finish(self, name: str, manifest: str) -> None:
        """All files of all ranks are safe: from here on it is a checkpoint (rank 0)."""

    def discard(self, name: str) -> None:
        """Remove what was begun and not finished."""

    def manifest(self, name: str) -> bytes:
        """The manifest of a checkpoint. Raises FileNotFoundError if there is none."""

    def fetch(self, name: str, file: str) -> Path:
        """A file of a checkpoint, on this machine; it may not be there."""

    def let_go(self) -> None:
        """What was fetched is not needed any more."""

    def remove(self, name: str) -> None:
        """Remove a checkpoint."""

    def set_aside(self, name: str) -> None:
        """Take a checkpoint out of the list, and keep it; of those that were kept so before, none."""

    def tidy(self) -> None:
        """Remove what killed writers left (rank 0, while nobody writes)."""


class Folder:
    """Checkpoints on a file system that all ranks see."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, str(folder)

    def check(self) -> None:
        """As in Place."""
        check_writable(self.folder)

    def names(self) -> list[str]:
        """As in Place; also one that has lost its manifest, and files of the format before this one."""
        known = [p.name for p in self.folder.glob("step-*")] if self.folder.is_dir() else []
        return [name for name in known if not name.endswith((PARTIAL, ASIDE))]

    def begin(self, name: str) -> Path:
        """As in Place."""
        partial = self.folder / (name + PARTIAL)
        partial.mkdir(parents=True, exist_ok=True)
        return partial

    def publish(self, name: str, file: Path) -> None:
        """As in Place."""
        with file.open("rb") as written:
            os.fsync(written.fileno())

    def finish(self, name: str, manifest: str) -> None:
        """As in Place."""
        partial = self.folder / (name + PARTIAL)
        write_whole(partial / MANIFEST, manifest)
        partial.rename(self.folder / name)
        sync_folder(self.folder)

    def discard(self, name: str) -> None:
        """As in Place."""
        shutil.rmtree(self.folder / (name + PARTIAL), ignore_errors=True)

    def manifest(self, name: str) -> bytes:
        """As in Place."""
        return (self.folder / name / MANIFEST).read_bytes()

    def fetch(self, name: str, file: str) -> Path:
        """As in Place."""
        return self.folder / name / file

    def let_go(self) -> None:
        """As in Place."""

    def remove(self, name: str) -> None:
        """As in Place: first out of the list, so that a part of it is never taken for a checkpoint."""
        path = self.folder / name
        if path.is_dir():
            self.discard(name)
            path = path.rename(self.folder / (name + PARTIAL))
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def set_aside(self, name: str) -> None:
        """As in Place."""
        for former in self.folder.glob(f"*{ASIDE}"):
            remove_tree(former)
        (self.folder / name).rename(self.folder / (name + ASIDE))

    def tidy(self) -> None:
        """As in Place."""
        for left in [*self.folder.glob(f"step-*{PARTIAL}"), *self.folder.glob(".step-*.part")]:
            remove_tree(left)


def remove_tree(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
