"""Rows of a version by their numbers: rows.arrow, mapped from the disk, so that a hit costs microseconds.

rows.parquet has the same rows without their pictures, for who reads whole columns. An index that an earlier version of
vlp wrote has rows.parquet alone, of which a whole group is decoded for a hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.index import Ints

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "rows.arrow"
ROWS_PER_GROUP = 1024  # rows that lie together
MOST_GROUPS = 4096  # that stay open: a few KB each, the rows themselves are on the disk


class RowFile:
    """The rows of a version, open: they stay readable when the version is removed."""

    def __init__(self, files: Path) -> None:
        import pyarrow as pa

        own = files / FILE
        self.path = own if own.is_file() else files / "rows.parquet"
        self._file = pa.memory_map(str(self.path))
        self._reader: Any = None
        self._groups: dict[int, pa.RecordBatch] = {}
        self._lock = Lock()

    def at(self, ids: Ints, columns: list[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """(id, row) of these ids, ascending; of some columns alone, where they are named.

        Raises OSError, ValueError or LookupError where the file does not hold them.
        """
        for group in np.unique(ids // ROWS_PER_GROUP).tolist():
            rows = self._group(group, columns)
            names = [name for name in columns or rows.schema.names if name in rows.schema.names]
            values = [rows.column(name) for name in names]
            for i in ids[ids // ROWS_PER_GROUP == group].tolist():
                place = i - group * ROWS_PER_GROUP
                yield i, {name: some[place].as_py() for name, some in zip(names, values, strict=True)}

    def count(self) -> int:
        """How many rows there are; reads the head of each group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.path.name != FILE:
            return int(pq.read_metadata(self.path).num_rows)
        reader = pa.ipc.open_file(self._file)
        return sum(len(reader.get_batch(number)) for number in range(reader.num_record_batches))

    def tables(self, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """(number of the first, rows) of all rows, a group at a time; of some columns alone, where they are named."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        start = 0
        if self.path.name == FILE:
            for number in range(pa.ipc.open_file(self._file).num_record_batches):
                rows = self._group(number, columns)
                yield start, pa.Table.from_batches([rows.select(columns) if columns else rows])
                start += len(rows)
            return
        with pq.ParquetFile(self._file) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=columns):
                yield start, pa.Table.from_batches([batch])
                start += len(batch)

    def _group(self, number: int, columns: list[str] | None) -> pa.RecordBatch | pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.path.name != FILE:
            with pq.ParquetFile(self._file) as file:
                return file.read_row_group(number, columns)
        with self._lock:
            if number not in self._groups:
                self._reader = self._reader or pa.ipc.open_file(self._file)
                rows = self._reader.get_batch(number)
                rows.validate(full=True)  # offsets of a damaged file would be read as they are
                if len(self._groups) >= MOST_GROUPS:
                    self._groups.clear()
                self._groups[number] = rows
            return self._groups[number]


class Keys:
    """The ids of rows by their keys: a sorted hash of each, and the row itself to be sure."""

    def __init__(self, rows: RowFile, live: Ints) -> None:
        """`live`: the ids that count, ascending."""
        hashes = np.empty(len(live), np.int64)
        for start, table in rows.tables(["key"]):
            first, last = np.searchsorted(live, [start, start + len(table)])
            keys = table["key"].take(live[first:last] - start).to_pylist()
            hashes[first:last] = [hash(key) for key in keys]
        order = np.argsort(hashes, kind="stable")
        self.rows, self.hashes, self.live = rows, hashes[order], live[order]

    def ids(self, key: str) -> Ints:
        """The ids of all rows with this key, ascending."""
        first, last = np.searchsorted(self.hashes, hash(key)), np.searchsorted(self.hashes, hash(key), "right")
        alike = self.live[first:last]
        return np.array([i for i, row in self.rows.at(alike, ["key"]) if row["key"] == key], np.int64)
