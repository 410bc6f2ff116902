"""A part of a store that is being made: what is done of it is kept block by block, and joined when all of it is there.

The blocks are whole files with a checksum under OUT/unfinished_PART, so that a process that is killed loses seconds of
its work and not a shard's. Whole or interrupted, the part's files have the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.embeddings import store
from vlp.files import write_whole

SAVE_S = 10.0  # of work that a kill may cost
SAVE_SAMPLES = 4096  # in memory at most, that are not saved
ROW_GROUP = 8192  # rows of the parquet file's groups, whatever blocks they come in
COLUMNS = ("id", "key", "image_path", "caption", "captions", "shard", "url", "metadata")
_NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.block")  # first position, the one after the last, rows


@dataclass(frozen=True)
class Loss:
    """Samples that are no rows."""

    reason: str  # one of the ledger's
    shard: str
    key: str = ""  # "" where it is not known
    count: int = 1


@dataclass(frozen=True)
class Made:
    """What was made of the samples at some positions of a shard."""

    start: int
    stop: int
    vectors: dict[str, NDArray[Any]]  # by kind (img_emb, text_emb): [n, D]; none where there are no rows
    rows: dict[str, list[str]]  # by column: [n]
    lost: list[Loss] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.rows["key"])

    def packed(self) -> bytes:
        """All of it with its checksum."""
        body = io.BytesIO()
        said = json.dumps({"rows": self.rows, "lost": [asdict(loss) for loss in self.lost]}).encode()
        arrays: dict[str, Any] = {"said": np.frombuffer(said, np.uint8), **self.vectors}
        np.savez(body, **arrays)
        return hashlib.sha256(body.getvalue()).hexdigest().encode() + b"\n" + body.getvalue()

    @classmethod
    def read(cls, path: Path) -> Made | None:
        """What is in a file, None if it is not what was written."""
        named = _NAME.fullmatch(path.name)
        digest, _, body = path.read_bytes().partition(b"\n")
        if named is None or hashlib.sha256(body).hexdigest().encode() != digest:
            return None
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            vectors = {name: arrays[name] for name in arrays.files if name != "said"}
            said = json.loads(arrays["said"].tobytes())
        return cls(int(named[1]), int(named[2]), vectors, said["rows"], [Loss(**loss) for loss in said["lost"]])


def joined(some: list[Made]) -> Made:
    """Blocks that come one after the other, as one."""
    kinds = dict.fromkeys(kind for one in some for kind in one.vectors)
    return Made(
        some[0].start,
        some[-1].stop,
        {kind: np.concatenate([one.vectors[kind] for one in some if one.count]) for kind in kinds},
        {name: [value for one in some for value in one.rows[name]] for name in some[0].rows},
        [loss for one in some for loss in one.lost],
    )


class Unfinished:
    """A part that is being made, by one process: whoever makes one holds the part's lock."""

    def __init__(self, out: Path, part: str, *, save_s: float = SAVE_S) -> None:
        self.out, self.part, self.save_s = out, part, save_s
        self.folder = folder_of(out, part)
        self.saved = _whole_blocks(self.folder)
        self.done = int(_numbers(self.saved[-1])[1]) if self.saved else 0
        self._rows = sum(_numbers(path)[2] for path in self.saved)
        self._new: list[Made] = []
        self._since = time.monotonic()

    def add(self, made: Made, *, last: bool = False) -> None:
        """What comes next; it is saved now and then, but for the `last`, after which the part is finished.

        Raises UserError for a full disk.
        """
        self._new.append(made)
        if last:
            return
        late = time.monotonic() - self._since >= self.save_s
        if late or made.stop - self._new[0].start >= SAVE_SAMPLES:
            self._save()

    def _save(self) -> None:
        made = joined(self._new)
        path = self.folder / f"{made.start:010d}-{made.stop:010d}-{made.count}.block"
        write_whole(path, made.packed())
        self.saved.append(path)
        self._rows += made.count
        self._new, self._since = [], time.monotonic()

    def blocks(self) -> Iterator[Made]:
        """All that was made, in order, one block in memory at a time."""
        for path in self.saved:
            made = Made.read(path)
            assert made is not None, path  # it was whole when this began
            yield made
        yield from self._new

    @property
    def count(self) -> int:
        """Rows so far."""
        return self._rows + sum(made.count for made in self._new)

    def lost(self) -> list[Loss]:
        """What is no row so far, and why."""
        return [loss for made in self.blocks() for loss in made.lost]

    def finish(self, kinds: Sequence[str], empty: Callable[[], dict[str, NDArray[Any]]]) -> None:
        """Write the part's files, with these kinds of vectors; `empty`: makes [0, D] of each, for a part without rows.

        Raises UserError for a full disk.
        """
        like = next((made.vectors for made in self.blocks() if made.count), None) or empty()
        for kind in kinds:
            write_whole(store.file_of(self.out, kind, self.part), partial(self._write_vectors, kind, like[kind]))
        write_whole(store.file_of(self.out, "metadata", self.part), self._write_rows)
        lines = (json.dumps(asdict(loss)) + "\n" for loss in self.lost())
        write_whole(store.file_of(self.out, "ledger", self.part), "".join(lines))
        store.finish_part(self.out, self.part, kinds=(*kinds, "metadata", "ledger"))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_vectors(self, kind: str, like: NDArray[Any], path: Path) -> None:
        """A .npy as numpy writes it, without all of it in memory."""
        descr = np.lib.format.dtype_to_descr(like.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self.count, like.shape[1])}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for made in self.blocks():
                if made.count:
                    file.write(np.ascontiguousarray(made.vectors[kind]).tobytes())

    def _write_rows(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema({name: pa.string() for name in COLUMNS})
        with pq.ParquetWriter(path, schema) as file:
            waiting: dict[str, list[str]] = {name: [] for name in COLUMNS}
            for made in self.blocks():
                for name in COLUMNS:
                    waiting[name] += made.rows[name]
                while len(waiting["key"]) >= ROW_GROUP:
                    file.write_table(pa.table({n: v[:ROW_GROUP] for n, v in waiting.items()}, schema=schema))
                    waiting = {name: values[ROW_GROUP:] for name, values in waiting.items()}
            file.write_table(pa.table(waiting, schema=schema))


def _whole_blocks(folder: Path) -> list[Path]:
    """The saved blocks that come one after the other from the first on; any others are removed."""
    kept: list[Path] = []
    at = 0
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        named = _NAME.fullmatch(path.name)
        if named is not None and int(named[1]) == at and Made.read(path) is not None:
            kept.append(path)
            at = int(named[2])
        else:
            path.unlink()
    return kept


def _numbers(path: Path) -> tuple[int, int, int]:
    named = _NAME.fullmatch(path.name)
    assert named is not None
    return int(named[1]), int(named[2]), int(named[3])


def remove_finished(out: Path, whole: Collection[str]) -> None:
    """Remove the blocks of parts that are whole: what a process left that was killed after it had joined them."""
    for folder in out.glob("unfinished_*"):
        if folder.name.removeprefix("unfinished_") in whole:
            shutil.rmtree(folder, ignore_errors=True)


def folder_of(out: Path, part: str) -> Path:
    """Where the blocks of a part are."""
    return out / f"unfinished_{part}"


def done_of(out: Path, part: str) -> int:
    """How many samples of a part are done, by the names of its blocks."""
    names = (_NAME.fullmatch(path.name) for path in folder_of(out, part).glob("*.block"))
    return max((int(named[2]) for named in names if named), default=0)
