"""Rows and vectors of a version as they come: rows.parquet and rows.arrow in groups, vectors.npy as numpy maps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.search.row_file import FILE, ROWS_PER_GROUP
from vlp.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


class Spool:
    """Writes the three files in `folder`, holding one group of rows at most; they are whole when the context ends."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.dim = folder, 0, 0
        self._vectors = (folder / "vectors.npy").open("wb")
        self._rows: Any = None  # rows.parquet
        self._by_number: Any = None  # rows.arrow
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write_rows(last=True)
                self._vectors.seek(0)
                self._head()
        finally:
            self._vectors.close()
            if self._rows is not None:
                self._rows.close()
                self._by_number.close()

    def add(self, rows: pa.Table, vectors: NDArray[np.float32]) -> None:
        """Append rows with their vectors [n, D]. Raises UserError if D is not that of those before."""
        if not len(rows):
            return
        if not self.dim:
            self.dim = vectors.shape[1]
            self._head()
        if vectors.shape[1] != self.dim:
            raise UserError(
                f"vectors have width {vectors.shape[1]}, but those before have {self.dim}; "
                "all of an index come from one model"
            )
        self._vectors.write(np.ascontiguousarray(vectors, np.float32).tobytes())
        self.count += len(rows)
        self._waiting.append(rows)
        self._write_rows(last=False)

    def _head(self) -> None:
        """numpy's header, which has room for any count."""
        shape = {"descr": "<f4", "fortran_order": False, "shape": (self.count, self.dim)}
        np.lib.format.write_array_header_1_0(self._vectors, shape)

    def _write_rows(self, *, last: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        waiting = sum(map(len, self._waiting))
        whole = waiting if last else waiting // ROWS_PER_GROUP * ROWS_PER_GROUP
        if not whole:
            return
        rows = pa.concat_tables(self._waiting)
        some = rows.slice(0, whole).combine_chunks()
        columns = [name for name in rows.column_names if name != "thumbnail"]
        if self._rows is None:
            self._rows = pq.ParquetWriter(self.folder / "rows.parquet", rows.select(columns).schema)
            self._by_number = pa.ipc.new_file(self.folder / FILE, rows.schema)
        self._rows.write_table(some.select(columns), row_group_size=ROWS_PER_GROUP)
        self._by_number.write_table(some, max_chunksize=ROWS_PER_GROUP)
        self._waiting = [rows.slice(whole)]


def vectors_of(folder: Path) -> NDArray[np.float32]:
    """[N, D] the vectors of a version, mapped from the disk. Raises UserError if it has none."""
    path = folder / "vectors.npy"
    if not path.is_file():
        raise UserError(f"{folder} was written by an earlier version, which kept no vectors; build the index again")
    return np.asarray(np.load(path, mmap_mode="r"))


def npy(array: NDArray[Any]) -> Callable[[Path], None]:
    """What writes an array for `write_whole`; numpy itself would put .npy after the temporary name."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, array)

    return write
