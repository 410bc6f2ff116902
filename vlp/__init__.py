"""vlp: CLIP-style vision-language pretraining, trustworthy evaluation, and retrieval."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from vlp.models.release import Release

__version__ = "0.1.0"


def load(model: str | Path, device: str = "cpu", *, random_weights: bool = False, trust: bool = False) -> Release:
    """A model that embeds texts and pictures, by its folder (RUN/model) or by open_clip's name and tag.

    `random_weights` allows an open_clip name without a tag, which has learned nothing; `trust` allows a folder to name
    components that are no part of vlp, whose code is then run. Raises UserError if there is no such model.
    """
    from vlp.models import release  # torch takes seconds to import: not before it is needed

    return release.load(model, device, random_weights=random_weights, trust=trust)


def open_index(folder: str | Path, *, model: str = "", device: str = "cpu", trust: bool = False) -> Any:
    """An index that is asked in words or by pictures: `vlp.open_index("runs/demo/index").search("a red apple", k=5)`.

    It is an eval.search.opened.OpenIndex. `model`: where the index's model is now, if it was moved; it is loaded with
    the first question. `trust` as in `load`. Raises UserError if there is no index in `folder`.
    """
    opened = importlib.import_module("eval.search.opened")  # by its name, as vlp.cli does: imports run downhill
    return opened.OpenIndex.open(folder, model=model, device=device, trust=trust)
