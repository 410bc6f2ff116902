"""A folder of embeddings in the layout of clip-retrieval: img_emb/*.npy, text_emb/*.npy, metadata/*.parquet.

Its tools read ours and `EmbeddingStore` reads theirs. Ours adds store.toml: which model and which data the vectors are
of; and sha256/*.json: the checksums of the three files of each part, written when the part is whole.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError
from vlp.files import sha256, write_whole
from vlp.legible import plain

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "vlp-embeddings-2"
WITHOUT_SUMS = "vlp-embeddings-1"  # an earlier format, which has no checksums: it is read as clip-retrieval's is


@dataclass(frozen=True)
class EmbeddingStore:
    """A folder of embeddings, ours or clip-retrieval's."""

    folder: Path
    parts: tuple[str, ...]  # the suffix that a part's three files share, in order
    model: str  # id of the model; "" where the folder does not say (clip-retrieval's does not)
    data: str  # sha256 of the data, or ""
    sums: bool = False  # whether there are checksums, which are then held against what is read

    @classmethod
    def open(cls, folder: Path) -> EmbeddingStore:
        """The store in `folder`. Raises UserError if it is none, or if a part is missing.

        A part whose bytes are not those that were written is a UserError when it is read.
        """
        names = sorted(path.stem.removeprefix("img_emb_") for path in (folder / "img_emb").glob("img_emb_*.npy"))
        if not names:
            raise UserError(f"{folder} holds no embeddings: there is no img_emb/img_emb_*.npy in it")
        own = about(folder)
        if own and own.get("format") not in (FORMAT, WITHOUT_SUMS):
            raise UserError(
                f"{folder} has format {plain(own.get('format'))!r}; this version reads {FORMAT!r}: embed it again"
            )
        if own and len(names) != own["parts"]:
            raise UserError(
                f"{folder} has {len(names)} of {own['parts']} parts; run the same `vlp embed` again to finish it"
            )
        model, data = own.get("model", {}).get("id", ""), own.get("data", {}).get("sha256", "")
        return cls(folder, tuple(names), model, data, own.get("format") == FORMAT)

    def images(self, part: str) -> NDArray[Any]:
        """[n, D] image vectors of one part, mapped from the disk. Raises UserError if they are no such thing."""
        return self._vectors("img_emb", part)

    def texts(self, part: str) -> NDArray[Any]:
        """[n, D] vectors of the first captions of one part, mapped from the disk. Raises UserError."""
        return self._vectors("text_emb", part)

    def rows(self, part: str) -> pa.Table:
        """One row a picture, at least the columns `image_path` or `key`, and `caption`. Raises UserError."""
        import pyarrow.parquet as pq

        path = self._checked("metadata", part)
        try:
            return pq.read_table(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a parquet file that can be read ({plain(error)}); embed again") from None

    def _vectors(self, kind: str, part: str) -> NDArray[Any]:
        path = self._checked(kind, part)
        try:
            vectors = np.asarray(np.load(path, mmap_mode="r"))  # mapped, so that no size in a header takes memory
        except Exception as error:  # numpy parses the header as Python, and raises what comes of it
            raise UserError(f"{path} is not an array that numpy can read ({plain(error)}); embed again") from None
        if vectors.ndim != 2 or vectors.dtype.kind != "f":
            raise UserError(f"{path} holds {vectors.dtype} {vectors.shape}, expected floats [n, D]; embed again")
        return vectors

    def _checked(self, kind: str, part: str) -> Path:
        """The path of a file that is the one that was written, as far as there are checksums. Raises UserError."""
        path = file_of(self.folder, kind, part)
        if self.sums and not path.is_file():
            raise UserError(f"{path} is missing; remove {sums_of(self.folder, part)} and run `vlp embed` again")
        if self.sums and sha256(path) != _sums(self.folder, part).get(path.name):
            raise UserError(
                f"{path} was altered (its sha256 is not the one that was written down); "
                f"remove {sums_of(self.folder, part)} and run `vlp embed` again"
            )
        return path


FILES = {"img_emb": "npy", "text_emb": "npy", "metadata": "parquet"}
"""Folder of each of a part's files, and how their names end"""


def file_of(folder: Path, kind: str, part: str) -> Path:
    """The file of a part: the vectors of its pictures (img_emb), of its captions (text_emb), or its rows (metadata)."""
    return folder / kind / f"{kind}_{part}.{FILES[kind]}"


def sums_of(folder: Path, part: str) -> Path:
    """The file that says of a part that it is whole, with the checksums of its files."""
    return folder / "sha256" / f"sha256_{part}.json"


def finish_part(folder: Path, part: str) -> None:
    """Write down that the files of a part are whole."""
    paths = [file_of(folder, kind, part) for kind in FILES]
    write_whole(sums_of(folder, part), json.dumps({path.name: sha256(path) for path in paths}, indent=1) + "\n")


def has_part(folder: Path, part: str) -> bool:
    """Whether a part of the store is whole."""
    return sums_of(folder, part).is_file() and all(file_of(folder, kind, part).is_file() for kind in FILES)


def _sums(folder: Path, part: str) -> dict[str, str]:
    try:
        sums = json.loads(sums_of(folder, part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return sums if isinstance(sums, dict) else {}


def about(folder: Path) -> dict[str, Any]:
    """What store.toml says; nothing where there is none. Raises UserError if it is damaged."""
    path = folder / "store.toml"
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML ({plain(error)}); embed again into another folder") from None
    for name in ("model", "data") if tree else ():
        if not isinstance(tree.get(name), dict):
            raise UserError(f'{path} lacks the table "{name}"; embed again into another folder')
    return tree
