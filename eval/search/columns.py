"""columns.parquet of a version: one typed row an id, in their order, which filters are asked of.

It is made of rows.parquet: key, shard (its file and folder, not the whole path), `caption_en` and so on for each
language, and the metadata, whose tables are flattened (`{"size": {"width": 9}}` is the column `size_width`). A field
whose values disagree in type is text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp.files import write_whole
from vlp.legible import plain

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "columns.parquet"
ROW = "__row__"  # what a filter asks for: the number of the row, which is the id
OWN = ("key", "shard", ROW)
ROWS_AT_ONCE = 16_384  # in memory, and in a group of the file
MOST_COLUMNS = 1000  # those that come first; the others stay in rows.parquet alone
DEEPEST = 4  # tables in tables; what lies deeper is one text of JSON
INT64 = range(-(2**63), 2**63)
Kind = str  # bool, int, float, text; "[]" before it for lists, and "[]" alone for one that was always empty


def write_columns(folder: Path) -> None:
    """Write columns.parquet from the rows.parquet of a version, some rows at a time, unless it is there already."""
    if (folder / FILE).is_file():
        return
    kinds = kinds_of(folder)
    write_whole(folder / FILE, lambda path: _write(path, folder, kinds))


def kinds_of(folder: Path) -> dict[str, Kind]:
    """Columns and their kinds, from all rows. Names that differ only in case are one column, as in SQL."""
    kinds: dict[str, Kind] = {"key": "text", "shard": "text"}
    for row in _flat_rows(folder):
        for name, value in row.items():
            kind = kind_of(value)
            before = kinds.get(name)
            if before is not None:
                kinds[name] = before if before == kind else merged(before, kind)
            elif len(kinds) < MOST_COLUMNS:
                kinds[name] = kind
    return kinds


def kind_of(value: Any) -> Kind:
    """The kind of one JSON value.

    >>> kind_of(True), kind_of(2**70), kind_of([1, 2.5]), kind_of([{}])
    ('bool', 'text', '[]float', 'text')
    """
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if value in INT64 else "text"
    if isinstance(value, float):
        return "float"
    if not isinstance(value, list):
        return "text"
    kind = "[]"
    for item in value:
        if isinstance(item, list | dict):
            return "text"
        if item is not None:
            kind = merged(kind, f"[]{kind_of(item)}")
    return kind


def merged(one: Kind, other: Kind) -> Kind:
    """The kind that takes values of both.

    >>> merged("int", "float"), merged("int", "text"), merged("[]", "[]int"), merged("[]int", "int")
    ('float', 'text', '[]int', 'text')
    """
    if one == other:
        return one
    if one.startswith("[]") and other.startswith("[]"):
        inner, outer = one[2:], other[2:]
        return f"[]{merged(inner, outer) if inner and outer else inner or outer}"
    return "float" if {one, other} == {"int", "float"} else "text"


def flattened(captions: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one row by column, null left out.

    >>> flattened({"en": "a cat"}, {"size": {"w": 9}, "tags": ["x"], "key": 1})
    {'caption_en': 'a cat', 'size_w': 9, 'tags': ['x'], 'metadata_key': 1}
    """
    row: dict[str, Any] = {}
    for language, text in captions.items():
        _put(row, f"caption_{language}", text, DEEPEST)
    for name, value in metadata.items():
        _put(row, f"metadata_{name}" if name.lower() in OWN else name, value, 0)
    return row


def _put(row: dict[str, Any], name: str, value: Any, depth: int) -> None:
    if isinstance(value, dict) and depth < DEEPEST:
        for inner, some in value.items():
            _put(row, f"{name}_{inner}", some, depth + 1)
    elif value is not None and name:
        row.setdefault(name, value)


def _flat_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a version, flattened, their columns under one spelling each."""
    spelled: dict[str, str] = {}  # as it comes -> the spelling that came first
    first: dict[str, str] = {}  # in small letters -> the same
    for table in _tables(folder):
        for key, shard, captions, metadata in zip(*table, strict=True):
            row = {"key": key, "shard": "/".join(shard.rsplit("/", 2)[-2:])}
            for name, value in flattened(_object(captions), _object(metadata)).items():
                known = spelled.get(name)
                if known is None:
                    shown = plain(name)
                    known = first.setdefault(shown.lower(), shown)
                    if len(spelled) < 100 * MOST_COLUMNS:
                        spelled[name] = known
                row.setdefault(known, value)
            yield row


def _tables(folder: Path) -> Iterator[list[list[str]]]:
    """Keys, shards, captions and metadata of some rows at a time; metadata are empty where an index has none."""
    import pyarrow.parquet as pq

    wanted = ["key", "shard", "captions", "metadata"]
    with pq.ParquetFile(folder / "rows.parquet") as file:
        present = [name for name in wanted if name in file.schema_arrow.names]
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=present):
            yield [batch[name].to_pylist() if name in present else ["{}"] * len(batch) for name in wanted]


def _object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(path: Path, folder: Path, kinds: Mapping[str, Kind]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _type(kind)) for name, kind in kinds.items()])
    with pq.ParquetWriter(path, schema) as writer:
        some: list[dict[str, Any]] = []
        for row in _flat_rows(folder):
            some.append(row)
            if len(some) == ROWS_AT_ONCE:
                writer.write_table(_typed(some, kinds, schema))
                some = []
        if some:
            writer.write_table(_typed(some, kinds, schema))


def _typed(rows: list[dict[str, Any]], kinds: Mapping[str, Kind], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = [[_as(row.get(name), kind) for row in rows] for name, kind in kinds.items()]
    return pa.table([pa.array(column, type=f.type) for column, f in zip(columns, schema, strict=True)], schema=schema)


def _as(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    if kind.startswith("[]"):
        return [_as(item, kind[2:]) for item in value]
    if kind == "text":
        return _utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return float(value) if kind == "float" else value


def _utf8(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _type(kind: Kind) -> pa.DataType:
    import pyarrow as pa

    if kind.startswith("[]"):
        return pa.list_(_type(kind[2:] or "text"))
    return {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}[kind]
