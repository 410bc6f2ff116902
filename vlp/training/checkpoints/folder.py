"""Checkpoints: whole or absent, the last few kept, and given only to the run that wrote them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlp.errors import UserError
from vlp.files import full_disk, write_whole
from vlp.training.checkpoints.identity import refuse_difference

FORMAT = "vlp-checkpoint-2"


class Checkpoints:
    """The checkpoints of one run, `step-0000123.pt` and so on, in a folder."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def clear(self) -> None:
        """Remove every checkpoint and every half-written one."""
        for path in [*self.all(), *self.folder.glob(".step-*.part")]:
            path.unlink()

    def write(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write `state` (tensors, numbers, text, lists, dicts) so that a crash at any moment leaves a whole checkpoint.

        Raises UserError on a full disk; the checkpoints from before are then still there.
        """
        final = self.folder / f"step-{step:08d}.pt"

        def save(path: Path) -> None:
            with path.open("wb") as file:  # torch would open it itself, and hide a full disk behind an error of its own
                torch.save({"format": FORMAT, **state}, file)

        with full_disk(final, self._left):
            write_whole(final, save)
        for old in self.all()[: -self.keep]:
            old.unlink()
        return final

    def read(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The newest checkpoint, on the CPU, or None if there is none yet.

        Raises UserError if it cannot be read, or if a run with another `identity` wrote it (the first difference is
        named).
        """
        for left in self.folder.glob(".step-*.part"):
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

    def _left(self) -> str:
        kept = self.all()
        return f"the checkpoint before it, {kept[-1].name}, is whole" if kept else "no checkpoint was written before it"
