"""Results on disk while a filter works: what was computed once is read again by the same command after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.search.spool import npy
from vlp.files import write_whole

FOLDER = ".working"
RECIPE = "recipe.json"
Arrays = dict[str, NDArray[Any]]


class Kept:
    """Arrays under names. `Kept.below` gives a rule a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, out: Path, recipe: Mapping[str, Any]) -> Kept:
        """What is kept in `out` for this recipe; what is there for another one goes away."""
        folder, text = out / FOLDER, json.dumps(recipe, sort_keys=True)
        path = folder / RECIPE
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            shutil.rmtree(folder, ignore_errors=True)
            write_whole(path, text)
        return cls(folder)

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
