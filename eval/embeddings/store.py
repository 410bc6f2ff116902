"""A folder of embeddings in the layout of clip-retrieval: img_emb/*.npy, text_emb/*.npy, metadata/*.parquet.

Its tools read ours and `EmbeddingStore` reads theirs. Ours adds store.toml: which model and which data the vectors are
of; ledger/*.jsonl: what of each part could not be read; and sha256/*.json: the checksums of a part's files, written
when it is whole. A store of pictures alone has no text_emb, one of texts alone no img_emb.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_pipelines.ledger import Ledger
from vlp.errors import UserError
from vlp.files import sha256, write_whole
from vlp.legible import plain

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "vlp-embeddings-3"
BEFORE = "vlp-embeddings-2"  # an earlier format, always of both kinds and without a ledger
WITHOUT_SUMS = "vlp-embeddings-1"  # an earlier format, which has no checksums: it is read as clip-retrieval's is
What = Literal["images", "texts", "both"]
KINDS: dict[What, tuple[str, ...]] = {
    "images": ("img_emb",),
    "texts": ("text_emb",),
    "both": ("img_emb", "text_emb"),
}
"""Folders of the vectors that a store has"""
HOLDS = {"img_emb": "pictures", "text_emb": "texts"}


@dataclass(frozen=True)
class EmbeddingStore:
    """A folder of embeddings, ours or clip-retrieval's."""

    folder: Path
    parts: tuple[str, ...]  # the suffix that a part's files share, in order
    model: str  # id of the model; "" where the folder does not say (clip-retrieval's does not)
    data: str  # sha256 of the data, or ""
    sums: bool = False  # whether there are checksums, which are then held against what is read
    what: What = "both"

    @classmethod
    def open(cls, folder: Path) -> EmbeddingStore:
        """The store in `folder`. Raises UserError if it is none, or if a part is missing.

        A part whose bytes are not those that were written is a UserError when it is read.
        """
        kinds = [kind for kind in HOLDS if (folder / kind).is_dir()]
        own = about(folder)
        if own and own.get("format") not in (FORMAT, BEFORE, WITHOUT_SUMS):
            raise UserError(
                f"{folder} has format {plain(own.get('format'))!r}; this version reads {FORMAT!r}: embed it again"
            )
        sums = bool(own) and own.get("format") != WITHOUT_SUMS
        there = {kind: _parts(folder, kind) for kind in (*kinds, "metadata")}
        names = sorted(_parts(folder, "sha256") if sums else set().union(*(there[kind] for kind in kinds)))
        if own and len(names) != own.get("parts"):
            raise UserError(
                f"{folder} has {len(names)} of {own.get('parts')} parts; run the same `vlp embed` again to finish it"
            )
        if not names:
            raise UserError(f"{folder} holds no embeddings: there is no img_emb/img_emb_*.npy or text_emb in it")
        what: What = next((name for name, held in KINDS.items() if list(held) == kinds), "both")
        what = own.get("what", "both") if sums else what
        for kind in (*KINDS[what], *(["metadata"] if there["metadata"] or sums else [])):
            gone = sorted(set(names) - there.get(kind, set()))
            if gone:
                whole = f"{folder} has {len(names) - len(gone)} of {len(names)} parts: "
                raise UserError(whole + _missing(folder, kind, gone[0], sums=sums))
        model, data = own.get("model", {}).get("id", ""), own.get("data", {}).get("sha256", "")
        return cls(folder, tuple(names), model, data, sums, what)

    def images(self, part: str) -> NDArray[Any]:
        """[n, D] image vectors of one part, mapped from the disk. Raises UserError if they are no such thing."""
        return self._vectors("img_emb", part)

    def texts(self, part: str) -> NDArray[Any]:
        """[n, D] vectors of the first captions of one part, mapped from the disk. Raises UserError."""
        return self._vectors("text_emb", part)

    def lost(self) -> Ledger:
        """What could not be read, of all parts, by reason and shard; nothing where no ledger is kept.

        Raises UserError if a ledger was altered.
        """
        ledger = Ledger()
        if self.sums and (self.folder / "ledger").is_dir():
            for part in self.parts:
                text = self._checked("ledger", part).read_text(encoding="utf-8")
                for loss in map(json.loads, text.splitlines()):
                    ledger.drop(loss["reason"], loss["shard"], loss["count"])
        return ledger

    def count(self) -> int:
        """Rows of all parts, by the headers of their files."""
        import pyarrow.parquet as pq

        return sum(int(pq.read_metadata(file_of(self.folder, "metadata", part)).num_rows) for part in self.parts)

    def rows(self, part: str) -> pa.Table:
        """One row a picture, at least the columns `image_path` or `key`, and `caption`. Raises UserError."""
        import pyarrow.parquet as pq

        path = self._checked("metadata", part)
        try:
            return pq.read_table(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a parquet file that can be read ({plain(error)}); embed again") from None

    def _vectors(self, kind: str, part: str) -> NDArray[Any]:
        if kind not in KINDS[self.what]:
            has = HOLDS[KINDS[self.what][0]]
            raise UserError(
                f"{self.folder} holds vectors of {has} only, not of {HOLDS[kind]}; embed into another folder with "
                "--what both"
            )
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
        if not path.is_file():
            raise UserError(_missing(self.folder, kind, part, sums=self.sums))
        if self.sums and sha256(path) != _sums(self.folder, part).get(path.name):
            raise UserError(
                f"{path} was altered (its sha256 is not the one that was written down); "
                f"remove {sums_of(self.folder, part)} and run `vlp embed` again"
            )
        return path


FILES = {"img_emb": "npy", "text_emb": "npy", "metadata": "parquet", "ledger": "jsonl", "sha256": "json"}
"""Folder of each of a part's files, and how their names end"""


def is_store(folder: Path) -> bool:
    """Whether a folder holds embeddings, ours or clip-retrieval's, however whole."""
    return any((folder / kind).is_dir() for kind in HOLDS)


def file_of(folder: Path, kind: str, part: str) -> Path:
    """The file of a part: vectors of its pictures (img_emb) or its captions (text_emb), rows (metadata), ledger."""
    return folder / kind / f"{kind}_{part}.{FILES[kind]}"


def sums_of(folder: Path, part: str) -> Path:
    """The file that says of a part that it is whole, with the checksums of its files."""
    return file_of(folder, "sha256", part)


def finish_part(folder: Path, part: str, *, kinds: Iterable[str] = ("img_emb", "text_emb", "metadata")) -> None:
    """Write down that the files of a part are whole."""
    paths = [file_of(folder, kind, part) for kind in kinds]
    write_whole(sums_of(folder, part), json.dumps({path.name: sha256(path) for path in paths}, indent=1) + "\n")


def whole_parts(folder: Path, what: What) -> set[str]:
    """The parts of a store that are whole; the folders are listed once, however many parts there are."""
    kinds = ("sha256", *KINDS[what], "metadata", "ledger")
    return set.intersection(*(_parts(folder, kind) for kind in kinds))


def has_part(folder: Path, part: str, what: What = "both") -> bool:
    """Whether a part of the store is whole."""
    kinds = ("sha256", *KINDS[what], "metadata", "ledger")
    return all(file_of(folder, kind, part).is_file() for kind in kinds)


def _parts(folder: Path, kind: str) -> set[str]:
    """The parts that have a file of this kind."""
    prefix, ending = f"{kind}_", f".{FILES[kind]}"
    names = os.listdir(folder / kind) if (folder / kind).is_dir() else []
    return {n[len(prefix) : -len(ending)] for n in names if n.startswith(prefix) and n.endswith(ending)}


def _missing(folder: Path, kind: str, part: str, *, sums: bool) -> str:
    path = file_of(folder, kind, part)
    if not sums:
        return f"{path} is missing, though other files of part {part} are there; copy the folder again"
    return f"{path} is missing; run the same `vlp embed` again"


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
