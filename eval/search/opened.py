"""An index with its model, for people who write Python: what `vlp.open_index` gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.search.compose import composed
from eval.search.gallery import Gallery, Hit
from vlp.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlp.models.release import Release

    Part = str | Image | bytes | Path
    """A text, or a picture: PIL's, encoded bytes, or the Path of a file. A str is always a text."""


@dataclass(frozen=True)
class OpenIndex:
    """An open index; its model is loaded with the first question."""

    gallery: Gallery
    name: str
    """the model's folder, or its name at open_clip"""
    device: str = "cpu"
    trust: bool = False

    @classmethod
    def open(cls, folder: str | Path, *, model: str = "", device: str = "cpu", trust: bool = False) -> OpenIndex:
        """The index in `folder`. Raises UserError if it is none."""
        gallery = Gallery.open(Path(folder), trust=trust)
        return cls(gallery, model or gallery.model, device, trust)

    @cached_property
    def model(self) -> Release:
        """The model that the index was built with. Raises UserError if it is not there."""
        from vlp.models import release

        return release.load(self.name, self.device, trust=self.trust)

    def __len__(self) -> int:
        return len(self.gallery.vectors)

    def columns(self) -> dict[str, str]:
        """What `where` may name, and the type of each. Raises UserError if the index is too old to have any."""
        return self.gallery.filters.columns()

    def search(
        self,
        *question: Part,
        k: int = 10,
        more: Part | Sequence[Part] = (),
        less: Part | Sequence[Part] = (),
        strength: float = 0.5,
        where: str = "",
        fold: float | None = None,
        rerank: int | None = None,
    ) -> list[Hit]:
        """The K pictures nearest to a question, best first: their scores (cosine), keys, captions and pictures.

        A question of several parts is their sum; `more` and `less` are added and taken away with weight `strength`.
        where: what the pictures fulfil, such as "width > 100 AND style = 'flat'", over `columns()`. fold: cosine (0.95
        is usual) from which on matches count as the same: the best one has the others in `alike`. rerank: so many
        matches of the index are scored again exactly; None: the K where its scores are estimates.

        Raises UserError for a question without parts, parts that cancel each other, a picture that cannot be read, a
        condition that cannot be answered, settings out of their bounds, or a model that is not the index's.
        """
        added, removed = _several(more), _several(less)
        parts = [*question, *added, *removed]
        if not parts:
            raise UserError("the question is empty; give a text or a picture")
        weights = [1.0] * len(question) + [strength] * len(added) + [-strength] * len(removed)
        vector = composed(np.asarray(self.model.embed(parts)), weights)
        return self.gallery.search(self.model, vector[None], k, where=where, fold=fold, rerank=rerank)[0]


def _several(parts: Part | Sequence[Part]) -> list[Part]:
    """The parts; a text or bytes are one, though they have a length."""
    if isinstance(parts, Sequence) and not isinstance(parts, str | bytes | bytearray):
        return list(parts)
    return [parts]
