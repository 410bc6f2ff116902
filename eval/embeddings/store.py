"""A folder of embeddings in the layout of clip-retrieval: img_emb/*.npy, text_emb/*.npy, metadata/*.parquet.

Its tools read ours and `EmbeddingStore` reads theirs. Ours adds store.toml: which model and which data the vectors are
of.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "vlp-embeddings-1"


@dataclass(frozen=True)
class EmbeddingStore:
    """A folder of embeddings, ours or clip-retrieval's."""

    folder: Path
    parts: tuple[str, ...]  # the suffix that a part's three files share, in order
    model: str  # id of the model; "" where the folder does not say (clip-retrieval's does not)
    data: str  # sha256 of the data, or ""

    @classmethod
    def open(cls, folder: Path) -> EmbeddingStore:
        """The store in `folder`. Raises UserError if it is none, or if a part is missing."""
        names = sorted(path.stem.removeprefix("img_emb_") for path in (folder / "img_emb").glob("img_emb_*.npy"))
        if not names:
            raise UserError(f"{folder} holds no embeddings: there is no img_emb/img_emb_*.npy in it")
        own = about(folder)
        if own and len(names) != own["parts"]:
            raise UserError(
                f"{folder} has {len(names)} of {own['parts']} parts; run the same `vlp embed` again to finish it"
            )
        return cls(folder, tuple(names), own.get("model", {}).get("id", ""), own.get("data", {}).get("sha256", ""))

    def images(self, part: str) -> NDArray[Any]:
        """[n, D] image vectors of one part, mapped from the disk."""
        return np.asarray(np.load(self.folder / "img_emb" / f"img_emb_{part}.npy", mmap_mode="r"))

    def texts(self, part: str) -> NDArray[Any]:
        """[n, D] vectors of the first captions of one part, mapped from the disk."""
        return np.asarray(np.load(self.folder / "text_emb" / f"text_emb_{part}.npy", mmap_mode="r"))

    def rows(self, part: str) -> pa.Table:
        """One row a picture, at least the columns `image_path` or `key`, and `caption`."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "metadata" / f"metadata_{part}.parquet")


def about(folder: Path) -> dict[str, Any]:
    """What store.toml says; nothing where there is none."""
    path = folder / "store.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
