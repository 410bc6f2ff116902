"""What readers of `datasets` folders (save_to_disk) share: their rows, with pictures as files and names of classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.sources import as_stored
from vlp.errors import UserError
from vlp.legible import plain

FILES = ("dataset_dict.json", "state.json")  # that save_to_disk writes


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote this folder."""
    return any((folder / name).is_file() for name in FILES)


def _loaded(folder: Path) -> Any:
    """What save_to_disk wrote. Raises UserError if it cannot be read."""
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # what the package and pyarrow raise for files that are cut off
        raise UserError(f"the dataset in {folder} cannot be read ({plain(error)}); save it again") from None


def splits_of(folder: Path) -> list[str]:
    """The names of the splits; none where there is one only. Raises UserError if they cannot be read."""
    import datasets

    saved = _loaded(folder)
    return list(saved) if isinstance(saved, datasets.DatasetDict) else []


def rows_of(folder: Path, split: str) -> Any:
    """The rows of a split, their pictures as files and not decoded. Raises UserError if they cannot be read."""
    import datasets

    saved = _loaded(folder)
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise UserError(f'{folder} has no split "{split}"; it has: {", ".join(saved)}')
        saved = saved[split]
    for name, kind in saved.features.items():
        if isinstance(kind, datasets.Image):
            saved = saved.cast_column(name, datasets.Image(decode=False))
        elif isinstance(getattr(kind, "feature", None), datasets.Image):
            saved = saved.cast_column(name, type(kind)(datasets.Image(decode=False)))
    return saved


def column_there(rows: Any, column: str, folder: Path) -> None:
    """Raise UserError if there is no such column."""
    if column not in rows.features:
        raise UserError(f'{folder} has no column "{column}"; it has: {", ".join(rows.features)}')


def class_names(rows: Any, column: str) -> tuple[str, ...]:
    """The names of a column of class labels, or of lists of them; none where it is of another kind."""
    kind = rows.features[column]
    return tuple(getattr(getattr(kind, "feature", kind), "names", None) or ())


def picture_of(cell: Any, folder: Path) -> tuple[bytes, str] | None:
    """The file of a picture and its format; None if there is none, or if it is no picture."""
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not data and isinstance(cell, Mapping) and cell.get("path"):
        path = folder / str(cell["path"])
        data = path.read_bytes() if path.is_file() else b""
    return as_stored(bytes(data)) if data else None
