"""Checkpoints: whole or absent, the last good ones kept, and given only to the run that wrote them."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from vlp.errors import UserError
from vlp.files import full_disk, write_whole
from vlp.training.checkpoints.identity import refuse_difference

FORMAT = "vlp-checkpoint-2"
REFUSING = ".refusing.pt"
ASIDE = ".aside"  # ending of what was passed over: it is kept to be looked at, and no checkpoint any more
From = Literal["newest", "good", "extend"]


class Checkpoints:
    """The checkpoints of one run, `step-0000123.pt` and so on, in a folder."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.passed_over: list[Path] = []

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.pt"))

    def clear(self) -> None:
        """Remove every checkpoint and every half-written one."""
        for path in [*self.all(), *self.folder.glob(".step-*.part")]:
            path.unlink()

    def good(self) -> list[Path]:
        """Those that were not written while the guard refused steps, oldest first."""
        return [path for path in self.all() if not path.name.endswith(REFUSING)]

    def write(self, step: int, state: Mapping[str, Any], *, refusing: bool = False) -> Path:
        """Write `state` (tensors, numbers, text, lists, dicts) so that a crash at any moment leaves a whole checkpoint.

        One that is written while the guard is `refusing` steps takes no good one's place. Raises UserError on a full
        disk; the checkpoints from before are then still there.
        """
        final = self.folder / f"step-{step:08d}{REFUSING if refusing else '.pt'}"

        def save(path: Path) -> None:
            with path.open("wb") as file:  # torch would open it itself, and raise its own error for a full disk
                torch.save({"format": FORMAT, **state}, file)

        with full_disk(final, self._left):
            write_whole(final, save)
        kept = {*self.good()[-self.keep :], final}
        for old in self.all():
            if old not in kept:
                old.unlink()
        return final

    def read(self, identity: Mapping[str, Any], *, start: From = "newest") -> dict[str, Any] | None:
        """The checkpoint to go on from, on the CPU, or None if there is none yet. It changes nothing in the folder.

        newest: the newest that is whole; a damaged one is passed over, saying so. good: the newest that was not written
        while the guard refused steps, and the settings of the optimizer may differ from those it was written with.
        extend: the newest, with another budget, schedule or settings of the optimizer.
        Raises UserError if none can be read, or if a run with another `identity` wrote it (the first difference is
        named).
        """
        self.passed_over = [p for p in self.all() if start == "good" and p not in self.good()]
        paths = self.good() if start == "good" else self.all()
        for path in reversed(paths):
            try:
                state = whole(path)
            except Exception as error:  # whatever a damaged file makes the reader say
                print(
                    f"the checkpoint {path} cannot be read ({type(error).__name__}); trying the one before",
                    file=sys.stderr,
                )
                self.passed_over.append(path)
                continue
            if state["format"] != FORMAT:
                raise UserError(
                    f"the checkpoint {path} has the format {state['format']!r}, but this version reads {FORMAT!r}; "
                    "finish the run with the version that began it, or give --training.no-resume to start over"
                )
            refuse_difference(path, state["identity"], identity, settings=start == "newest")
            return state
        if paths:
            raise UserError(
                f"none of the {len(paths)} checkpoints in {self.folder} can be read; move them away to start over"
            )
        return None

    def set_aside(self) -> None:
        """Rename what `read` passed over, and remove what was half-written (rank 0 alone, when all ranks have read)."""
        for left in self.folder.glob(".step-*.part"):
            left.unlink(missing_ok=True)
        for path in self.passed_over:
            path.replace(path.with_name(path.name + ASIDE))

    def _left(self) -> str:
        kept = self.all()
        return f"the checkpoint before it, {kept[-1].name}, is whole" if kept else "no checkpoint was written before it"


def whole(path: Path) -> dict[str, Any]:
    """What a checkpoint holds; raises whatever its damage brings about."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:  # torch.load itself compares no checksums
            raise zipfile.BadZipFile(damaged)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return {"format": None, **state}
