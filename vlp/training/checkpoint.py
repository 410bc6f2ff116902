"""Checkpoints: whole or absent, the last few kept, and given only to the run that wrote them."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlp.errors import UserError

FORMAT = "vlp-checkpoint-1"
FULL = (errno.ENOSPC, errno.EDQUOT)


class Checkpoints:
    """The checkpoints of one run, `step-0000123.pt` and so on, in a folder."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def clear(self) -> None:
        """Remove every checkpoint and every half-written one."""
        for path in [*self.all(), *self.folder.glob("*.partial")]:
            path.unlink()

    def write(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write `state` (tensors, numbers, text, lists, dicts) so that a crash at any moment leaves a whole checkpoint.

        Raises UserError on a full disk; the checkpoints from before are then still there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"step-{step:08d}.pt"
        partial = final.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save({"format": FORMAT, **state}, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise self._explained(error) from None
        partial.replace(final)
        self._sync_folder()
        for old in self.all()[: -self.keep]:
            old.unlink()
        return final

    def read(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The newest checkpoint, on the CPU, or None if there is none yet.

        Raises UserError if it cannot be read, or if a run with another `identity` wrote it (the first difference is
        named).
        """
        for left in self.folder.glob("*.partial"):
            left.unlink(missing_ok=True)
        paths = self.all()
        if not paths:
            return None
        path = paths[-1]
        try:
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:  # torch.load itself compares no checksums
                    raise zipfile.BadZipFile(damaged)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            found = state["format"]
        except Exception as error:  # whatever a damaged file makes the reader say
            raise UserError(
                f"the checkpoint {path} cannot be read ({type(error).__name__}); delete it to go on from the one before"
            ) from error
        if found != FORMAT:
            raise UserError(f"the checkpoint {path} has the format {found!r}, but this version reads {FORMAT!r}")
        refuse_difference(path, state["identity"], identity)
        return state

    def _explained(self, error: BaseException) -> BaseException:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno in FULL):
            cause = cause.__context__  # torch's writer raises an error of its own after the disk's
        if cause is None:
            return error
        kept = self.all()
        left = f"the checkpoint before it, {kept[-1].name}, is whole" if kept else "no checkpoint was written before it"
        free = shutil.disk_usage(self.folder).free
        return UserError(
            f"the disk of {self.folder} is full ({free / 2**20:.0f} MiB free) and a checkpoint did not fit; {left}; "
            "free some space and give the same command again"
        )

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_difference(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError at the first key, in alphabetical order, whose value the two runs do not share."""
    for key in sorted({*found, *wanted}):
        old, new = found.get(key, "nothing"), wanted.get(key, "nothing")
        if old != new:
            raise UserError(
                f"{path} belongs to another run: there {key} is {old}, here it is {new}; "
                "choose another run folder, or set training.resume to false to start over in this one"
            )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys; sequences become text."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out.update(flat(value, f"{path}."))
        else:
            out[path] = value if isinstance(value, str | int | float | bool) else str(value)
    return out
