"""The folder of an evaluation: report.json, and beside it what each query scored and what each task says besides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import plain

if TYPE_CHECKING:
    import pyarrow as pa

    from eval.tasks import Measured

Tree = dict[str, Any]
PER_QUERY, DETAILS = "per_query.parquet", "details.json"


@dataclass(frozen=True)
class Queries:
    """What each query of one metric scored."""

    keys: tuple[str, ...]  # [Q] no two are equal
    values: NDArray[np.float64]  # [Q]
    groups: NDArray[np.int64] | None = field(default=None, compare=False)  # [Q] where the metric is a mean of means

    @property
    def right_or_wrong(self) -> bool:
        """Whether every query scored 0 or 1."""
        return bool(np.isin(self.values, (0, 1)).all())


def write_json(tree: object, path: Path) -> None:
    """Write a tree as JSON for people and programs, as a whole or not at all."""
    text = json.dumps(tree, indent=1, ensure_ascii=False, default=str) + "\n"
    write_whole(path, text)


def write_queries(measured: Mapping[str, Measured], folder: Path) -> None:
    """Write per_query.parquet (metric, query, value, group) and details.json into the folder of a report."""
    import pyarrow.parquet as pq

    table = _table({name: m for name, m in measured.items() if m.per_query is not None})
    write_whole(folder / PER_QUERY, lambda path: pq.write_table(table, path, compression="zstd"))
    details = {name: dict(m.detail) for name, m in measured.items() if m.detail}
    write_whole(folder / DETAILS, json.dumps(details, ensure_ascii=False) + "\n")


def _table(measured: Mapping[str, Measured]) -> pa.Table:
    import pyarrow as pa

    schema = pa.schema(
        [
            ("metric", pa.dictionary(pa.int32(), pa.string())),
            ("query", pa.dictionary(pa.int32(), pa.string())),
            ("value", pa.float64()),
            ("group", pa.int64()),
        ]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for name, m in measured.items():
            assert m.per_query is not None
            assert m.queries_by is not None
            groups = [None] * len(m.per_query) if m.groups is None else m.groups
            columns = [
                pa.array([name] * len(m.per_query)).dictionary_encode(),
                pa.array([printable_key(key) for key in m.queries_by], pa.string()).dictionary_encode(),
                pa.array(m.per_query, pa.float64()),
                pa.array(groups, pa.int64()),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.Table.from_batches(batches(), schema=schema).unify_dictionaries()


def printable_key(key: str) -> str:
    """A key that can be written as UTF-8: half surrogates are replaced."""
    return key.encode("utf-8", "replace").decode()


def read_queries(folder: Path, names: Sequence[str]) -> dict[str, Queries]:
    """What each query of these metrics scored, of those that per_query.parquet has.

    Raises UserError if the folder has no such file, or one that is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = folder / PER_QUERY
    if not path.is_file():
        raise UserError(f"{folder} has no {PER_QUERY}: evaluate again with this version, vlp eval ... --out {folder}")
    try:
        table = pq.read_table(path)
        result = {}
        for name in names:
            rows = table.filter(pc.equal(table["metric"].cast(pa.string()), name))
            if len(rows):
                groups = None if rows["group"].null_count else rows["group"].to_numpy()
                keys = tuple(rows["query"].cast(pa.string()).to_pylist())
                result[name] = Queries(keys, rows["value"].to_numpy().astype(np.float64), groups)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({plain(error)}): evaluate again into {folder}") from None
    return result


def read_details(folder: Path) -> dict[str, Tree]:
    """What the tasks say besides their numbers, by metric. Raises UserError if details.json is damaged."""
    path = folder / DETAILS
    try:
        details: dict[str, Tree] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({plain(error)}): evaluate again into {folder}") from None
    if not isinstance(details, dict) or not all(isinstance(one, dict) for one in details.values()):
        raise UserError(f"{path} is not what an evaluation writes: evaluate again into {folder}")
    return details
