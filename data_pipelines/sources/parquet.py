"""Parquet files with a column of pictures and columns of captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.sample import Sample
from data_pipelines.sources import Source, Unusable, as_stored, safe_key
from vlp.errors import UserError

PLAIN = {"en": "text"}  # language -> column, where nobody says
ROWS = 64  # read at a time; pictures make rows large


@dataclass(frozen=True)
class Parquet(Source):
    """Rows of Parquet files, read a few at a time. Other columns go into the sample's .json."""

    path: Path
    """a .parquet file, or a folder of them"""
    image: str = "image"
    """column of the pictures: bytes, a path, or the struct of bytes and path that `datasets` writes"""
    captions: dict[str, str] = field(default_factory=dict)
    """languages, each with the column of its captions (one text in each row, or a list); none named: en text"""
    key: str = ""
    """column that names the samples; empty: the file's name and the number of the row"""

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """A sample for each row, in the order of the files' names. Raises UserError if a column is missing."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        root = self.path.expanduser()
        files = sorted(root.rglob("*.parquet")) if root.is_dir() else [root]
        if not files or not files[0].is_file():
            raise UserError(f'there is no .parquet file at "{root}"')
        for path in files:
            try:
                table = pq.ParquetFile(path)
                self._check(path, table.schema_arrow.names)
                row = 0
                for batch in table.iter_batches(ROWS):
                    for record in batch.to_pylist():
                        yield row_sample(
                            record,
                            place=f"{path.stem}-{row:08d}",
                            image=self.image,
                            captions=self.captions or PLAIN,
                            key=self.key,
                            folder=path.parent,
                        )
                        row += 1
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None

    def _check(self, path: Path, columns: list[str]) -> None:
        for wanted in (self.image, *(self.captions or PLAIN).values(), *filter(None, (self.key,))):
            if wanted not in columns:
                raise UserError(f'{path} has no column "{wanted}"; it has: {", ".join(columns)}')


def row_sample(
    record: dict[str, Any], *, place: str, image: str, captions: Mapping[str, str], key: str, folder: Path
) -> Sample | Unusable:
    """The sample in a row of a table; columns that are not asked for become its metadata.

    `place` names the row, `image`, `captions` and `key` (empty: `place` is the key) its columns; paths of pictures are
    under `folder`. A column of captions has one text in each row, or a list of them.
    """
    name = safe_key(str(record[key])) if key else safe_key(place)
    picture = record.pop(image)
    every = {language: _texts(record[column]) for language, column in captions.items()}
    record = {column: value for column, value in record.items() if column not in captions.values()}
    texts = {language: some[0] for language, some in every.items() if some}
    if not texts:
        return Unusable("missing caption", place)
    try:
        data = _bytes(picture, folder)
    except OSError as error:
        return Unusable("missing picture", f"{place}: {error}")
    stored = as_stored(data) if data else None
    if stored is None:
        return Unusable("undecodable picture" if data else "missing picture", place)
    plain = {column: value for column, value in record.items() if isinstance(value, str | int | float | bool | list)}
    several = {language: some for language, some in every.items() if len(some) > 1}
    return Sample(name, stored[0], stored[1], texts, {**plain, **({"all_captions": several} if several else {})})


def _texts(value: Any) -> list[str]:
    """The captions in a cell: one text, or a list of them; empty ones are left out."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def _bytes(picture: Any, folder: Path) -> bytes:
    """The file of the picture, whichever way it is in the column; b"" if there is none. Raises OSError."""
    if isinstance(picture, dict):
        picture = picture.get("bytes") or picture.get("path")
    if isinstance(picture, str):
        return (folder / picture).read_bytes()
    return bytes(picture) if picture else b""
