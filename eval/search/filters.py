"""`style = 'flat' AND width > 100` -> the ids of the rows that are meant: DuckDB over columns.parquet of a version."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.index import Ints
from eval.search.columns import FILE, ROW, ROWS_AT_ONCE
from eval.search.predicate import checked, database, said
from vlp.errors import UserError
from vlp.legible import plain

if TYPE_CHECKING:
    import pyarrow as pa

MOST_SECONDS = 60.0
KEPT = 16  # predicates whose ids are kept
IDS_KEPT = 1 << 24  # of all of them, which are 128 MiB
SHORT = 40  # characters of a value that is shown
LOOKED_AT = 1000  # rows of which columns show values


class Filters:
    """What the rows of one version can be filtered by; it reads what it opened, whatever versions are written later."""

    def __init__(self, folder: Path) -> None:
        """Of the version whose files are in `folder`; one that an earlier vlp wrote has no columns."""
        import pyarrow as pa

        self._file = pa.memory_map(str(folder / FILE)) if (folder / FILE).is_file() else None
        self._kept: OrderedDict[str, Ints] = OrderedDict()
        self._lock = threading.Lock()

    def columns(self) -> dict[str, str]:
        """Columns and their types, such as "list of text". Raises UserError if the version has none."""
        import pyarrow as pa

        names = {pa.string(): "text", pa.int64(): "integer", pa.float64(): "number", pa.bool_(): "boolean"}
        return {
            field.name: f"list of {names[field.type.value_type]}" if pa.types.is_list(field.type) else names[field.type]
            for field in self._opened().schema_arrow
        }

    def examples(self, most: int = 4) -> dict[str, list[str]]:
        """Some values of each column, of the first rows, as a predicate would have them; of lists their members."""
        rows = next(self._opened().iter_batches(LOOKED_AT), None)
        shown: dict[str, list[str]] = {}
        for name in self.columns():
            values = rows[name].to_pylist() if rows is not None else []
            flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
            short = (value for value in flat if value is not None and len(str(value)) <= SHORT)
            shown[name] = list(dict.fromkeys(map(_literal, short)))[:most]
        return shown

    def ids(self, predicate: str, *, seconds: float = MOST_SECONDS) -> Ints:
        """The ids of the rows of which `predicate` is true, ascending; not to be changed, since they are kept.

        Raises UserError for a predicate that cannot be read, names a column that is not there, does what no predicate
        may, or takes longer than `seconds`.
        """
        with self._lock:
            if predicate in self._kept:
                self._kept.move_to_end(predicate)
                return self._kept[predicate]
        ids = self._asked(predicate, seconds)
        ids.flags.writeable = False
        with self._lock:
            self._kept[predicate] = ids
            while len(self._kept) > KEPT or sum(map(len, self._kept.values())) > max(IDS_KEPT, len(ids)):
                self._kept.popitem(last=False)
        return ids

    def _opened(self) -> Any:
        import pyarrow.parquet as pq

        if self._file is None:
            raise UserError(f"the index was written by an earlier version, without {FILE}; build the index again")
        try:
            return pq.ParquetFile(self._file)
        except (OSError, ValueError) as error:
            raise UserError(f"{FILE} of the index cannot be read ({plain(error)}); build the index again") from None

    def _asked(self, predicate: str, seconds: float) -> Ints:
        import duckdb
        import pyarrow as pa

        file = self._opened()
        schema = file.schema_arrow
        sql, used = checked(predicate, {name.lower(): name for name in schema.names})
        fields = [schema.field(name) for name in used]
        deadline = time.monotonic() + seconds
        batches = _numbered(file, used, pa.schema([(ROW, pa.int64()), *fields]), deadline)
        cursor = database().cursor()
        timer = threading.Timer(seconds, cursor.interrupt)
        timer.start()
        try:
            cursor.register("rows", batches)
            return np.sort(np.asarray(cursor.execute(sql).fetchnumpy()[ROW], np.int64))
        except (duckdb.Error, RuntimeError) as error:
            if time.monotonic() >= deadline:
                raise UserError(f"the filter took longer than {seconds:g} seconds; ask for something simpler") from None
            raise UserError(f"the filter cannot be answered: {said(error)}") from None
        finally:
            timer.cancel()
            cursor.close()


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + plain(value).replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _numbered(file: Any, names: list[str], schema: pa.Schema, deadline: float) -> pa.RecordBatchReader:
    """The columns of a file and the number of each row, some rows at a time, until the time is over."""
    import pyarrow as pa

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
            if time.monotonic() >= deadline:  # an interrupt that came before the query began has done nothing
                raise TimeoutError
            numbers = pa.array(np.arange(start, start + len(batch)))
            yield pa.RecordBatch.from_arrays([numbers, *(batch[name] for name in names)], schema=schema)
            start += len(batch)

    return pa.RecordBatchReader.from_batches(schema, batches())
