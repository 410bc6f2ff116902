"""Results on disk while a filter works: what was computed once is read again by the same command after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.search.spool import npy
from vlp.errors import UserError
from vlp.files import DiskFull, write_whole

FOLDER = ".working"
RECIPE = "recipe.json"


class Paused(UserError):
    """An error that may pass, after which the same command goes on where it was."""


class Kept:
    """Arrays under names. `Kept.below` gives a rule a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, out: Path, recipe: Mapping[str, Any]) -> Kept:
        """What is kept in `out` for this recipe. Raises UserError if it is of another one."""
        folder, text = out / FOLDER, json.dumps(recipe, sort_keys=True)
        path = folder / RECIPE
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"{out} holds the beginning of another filter, or of one over other data; run that command again, or "
                "remove the folder"
            )
        if not path.is_file():
            write_whole(path, text)
        return cls(folder)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """A context whose errors leave nothing of what is kept, but for those after which the same command goes on."""
        try:
            yield
        except (Paused, DiskFull):
            raise
        except UserError:
            shutil.rmtree(self.folder)
            raise

    def below(self, name: str) -> Kept:
        """A part of its own."""
        return Kept(self.folder / name)

    def array(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The array of this name, made if it is not there."""
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            write_whole(path, npy(make()))
        return np.asarray(np.load(path, mmap_mode="r"))

    def tree(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The JSON of this name, made if it is not there."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_whole(path, json.dumps(make(), ensure_ascii=False))
        return dict(json.loads(path.read_text(encoding="utf-8")))
