"""The vectors of a store by numbers that run over all of its parts: as many parts are open as the system allows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from eval.embeddings.store import EmbeddingStore, file_of
from eval.search.parts import unit
from vlp.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_OPEN = 256
Kind = Literal["image", "text"]
FOLDERS = {"image": "img_emb", "text": "text_emb"}


class Stored:
    """Vectors and rows of a store; checksums are compared when a part is read first."""

    def __init__(self, store: EmbeddingStore) -> None:
        """Raises UserError if parts hold vectors of different width, or are no vectors."""
        self.store = store
        self._open: OrderedDict[tuple[Kind, str], NDArray[Any]] = OrderedDict()
        self._checked: set[tuple[Kind, str]] = set()
        counts: list[int] = []
        self.dim = 0
        for part in store.parts:
            vectors = self._part("image", part)
            self.dim = self.dim if counts else vectors.shape[1]
            counts.append(len(vectors))
            if vectors.shape[1] != self.dim:
                raise UserError(
                    f"part {part} of {store.folder} holds vectors of width {vectors.shape[1]}, but those before have "
                    f"{self.dim}; all come from one model, so embed again"
                )
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def has_texts(self) -> bool:
        """Whether there are vectors of captions."""
        return all(file_of(self.store.folder, "text_emb", part).is_file() for part in self.store.parts)

    def vectors(self, numbers: NDArray[np.int64], kind: Kind = "image") -> NDArray[np.float32]:
        """[n, D] unit vectors of these numbers, in their order. Raises UserError for one that is NaN or zero."""
        out = np.empty((len(numbers), self.dim), np.float32)
        order = np.argsort(numbers, kind="stable")
        parts = np.searchsorted(self.starts, numbers[order], side="right") - 1
        bounds = np.flatnonzero(np.diff(parts, prepend=-1, append=len(self.starts)))
        for start, stop in pairwise(bounds.tolist()):
            part, places = int(parts[start]), order[start:stop]
            rows = numbers[places] - self.starts[part]
            name = self.store.parts[part]
            out[places] = unit(self._part(kind, name)[rows], self.store.folder, name)
        return out

    def rows(self, part: int) -> pa.Table:
        """The rows of one part. Raises UserError if they are not as many as its vectors."""
        name, count = self.store.parts[part], int(self.starts[part + 1] - self.starts[part])
        rows = self.store.rows(name)
        if len(rows) != count:
            raise UserError(
                f"part {name} of {self.store.folder} has {count:,} vectors but {len(rows):,} rows; embed it again"
            )
        return rows

    def _part(self, kind: Kind, name: str) -> NDArray[Any]:
        key = (kind, name)
        if key not in self._open:
            known = replace(self.store, sums=self.store.sums and key not in self._checked)
            vectors = known.images(name) if kind == "image" else self._texts(known, name)
            self._checked.add(key)
            self._open[key] = vectors
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return self._open[key]

    def _texts(self, store: EmbeddingStore, name: str) -> NDArray[Any]:
        texts, images = store.texts(name), self._part("image", name)
        if texts.shape != images.shape:
            raise UserError(
                f"part {name} of {store.folder} has texts {texts.shape} and pictures {images.shape}, which cannot be "
                "compared; embed again with a model whose towers end in one width"
            )
        return texts
