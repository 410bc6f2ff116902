"""Parquet files with a column of pictures and columns of captions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.sample import Sample
from data_pipelines.sources import Source, Unusable, as_stored, described, not_read, safe_key
from vlp.errors import UserError

PLAIN = ("text", "caption", "captions")  # columns of captions, where nobody names one; the first that there is
ROWS = 64  # read at a time; pictures make rows large


@dataclass(frozen=True)
class Parquet(Source):
    """Rows of Parquet files, read a few at a time. Other columns go into the sample's .json."""

    keys_repeat: ClassVar[bool] = True

    path: Path
    """a .parquet file, or a folder of them"""
    image: str = "image"
    """column of the pictures: bytes, a path, or the struct of bytes and path that `datasets` writes"""
    captions: dict[str, str] = field(default_factory=dict)
    """languages, each with the column of its captions (one text in each row, or a list); none named: text or caption"""
    key: str = ""
    """column that names the samples; empty: the file's name and the number of the row"""

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """A sample for each row, in the order of the files' names. Raises UserError if a column is missing."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self._files():
            try:
                table = pq.ParquetFile(path)
                schema = table.schema_arrow
                captions = caption_columns(f'"{path}"', schema.names, (self.image, self.key), self.captions)
                labels = _labels(schema.metadata)
                row = 0
                for batch in table.iter_batches(ROWS):
                    for record in _records(batch):
                        place = f"{path.stem}-{row:08d}"
                        row += 1
                        if record is None:
                            yield Unusable("undecodable caption", place)
                            continue
                        yield row_sample(
                            named(record, labels),
                            place=place,
                            image=self.image,
                            captions=captions,
                            key=self.key,
                            folder=path.parent,
                        )
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None

    def inputs(self, part: str) -> str:
        """The Parquet files."""
        return described(self.path.expanduser(), self._files())

    def _files(self) -> list[Path]:
        """The files, in order. Raises UserError if there are none."""
        root = self.path.expanduser()
        files = sorted(root.rglob("*.parquet")) if root.is_dir() else [root]
        if not files or not files[0].is_file():
            raise UserError(f'there is no .parquet file at "{root}"')
        return files


def caption_columns(
    where: str, columns: Sequence[str], others: Sequence[str], captions: Mapping[str, str]
) -> Mapping[str, str]:
    """language -> column of captions: those that are named, else the first of PLAIN that a table has.

    Raises UserError if one of them, or one of the `others` (empty ones apart), is not there.
    """
    it_has = f"it has: {', '.join(columns)}"
    for wanted in (*captions.values(), *filter(None, others)):
        if wanted not in columns:
            raise UserError(
                f'{where} has no column "{wanted}"; {it_has} (--image, --key and --captions en name others)'
            )
    plain = next((name for name in PLAIN if name in columns), "")
    if not captions and not plain:
        raise UserError(f'{where} has no column "text" or "caption"; {it_has}: name it with --captions en COLUMN')
    return captions or {"en": plain}


def named(record: dict[str, Any], labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The row with names instead of numbers in columns of class labels."""

    def name(names: Sequence[str], value: Any) -> Any:
        if isinstance(value, list):
            return [name(names, one) for one in value]
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else value

    return {column: name(labels[column], value) if column in labels else value for column, value in record.items()}


def _labels(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """column -> names of its classes, of tables that `datasets` wrote."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {column: kind.get("feature", kind) for column, kind in features.items() if isinstance(kind, dict)}
        return {column: list(kind["names"]) for column, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _records(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; None for one whose text is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(batch.num_rows):
            try:
                yield batch.slice(row, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


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
    except ValueError as error:
        return Unusable("unreadable file", f"{place}: {error}")
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
    """The file of the picture, whichever way it is in the column; b"" if there is none.

    Raises OSError, and ValueError for a path that leads out of `folder`.
    """
    if isinstance(picture, dict):
        picture = picture.get("bytes") or picture.get("path")
    if isinstance(picture, str):
        path = folder / picture
        if not Path(picture).is_absolute() and path.exists() and (reason := not_read(path, folder)):
            raise ValueError(f"{picture}: {reason}")
        return (folder / picture).read_bytes()
    return bytes(picture) if picture else b""
