"""A folder of pictures, each with its caption beside it or in one list of captions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.sample import Sample
from data_pipelines.sources import Source, Unusable, as_stored, described, not_read, sample_of
from vlp.errors import UserError

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
LISTS = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Folder(Source):
    """Pictures under a folder. The caption of a/b.jpg is a/b.txt, a/b.json, or a row of metadata.jsonl or .csv."""

    path: Path
    """the folder; pictures in folders below it count too"""
    language: str = "en"
    """language of the captions that do not say it"""

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """A sample for each picture, in the order of their paths. Raises UserError if there are no pictures."""
        root = self.path.expanduser()
        if not root.is_dir():
            raise UserError(f'"{root}" is not a folder; expected a folder of pictures with captions beside them')
        listed = _listed(root)
        any_picture = False
        for path in sorted(root.rglob("*")):
            if path.is_symlink() and path.is_dir():
                yield Unusable("unreadable file", f"{path.relative_to(root)}: links to folders are not followed")
            elif path.suffix.lower() in PICTURES and (path.is_file() or path.is_symlink()):
                any_picture = True
                yield self._item(path, path.relative_to(root), listed)
        if not any_picture:
            raise UserError(f'there is no picture in "{root}"; known endings: {" ".join(sorted(PICTURES))}')

    def inputs(self, part: str) -> str:
        """The pictures, the files beside them and the lists of captions."""
        root = self.path.expanduser()
        files = {path for path in root.rglob("*") if path.is_file()}
        pictures = {path for path in files if path.suffix.lower() in PICTURES}
        beside = {path.with_suffix(ending) for path in pictures for ending in (".txt", ".json")}
        return described(root, pictures | (beside | {root / name for name in LISTS}) & files)

    def _item(self, path: Path, relative: Path, listed: dict[str, dict[str, Any]]) -> Sample | Unusable:
        root = self.path.expanduser()
        if reason := not_read(path, root):
            return Unusable("unreadable file", f"{relative}: {reason}")
        try:
            record = _record(path, root) | listed.get(relative.as_posix(), {})
            stored = as_stored(path.read_bytes())
        except (OSError, ValueError) as error:
            return Unusable("unreadable file", f"{relative}: {error}")
        if stored is None:
            return Unusable("undecodable picture", str(relative))
        sample = sample_of(record, relative.with_suffix("").as_posix(), stored, self.language)
        return sample or Unusable("missing caption", str(relative))


def _record(path: Path, root: Path) -> dict[str, Any]:
    """What lies beside a picture under `root`: its .json, and its .txt as the caption.

    Raises ValueError if the .json is none, or if one of them is not read.
    """
    record: dict[str, Any] = {}
    beside, text = path.with_suffix(".json"), path.with_suffix(".txt")
    for one in (beside, text):
        if one.is_symlink() and (reason := not_read(one, root)):
            raise ValueError(f"{one.name}: {reason}")
    if beside.is_file():
        record = json.loads(beside.read_text(encoding="utf-8", errors="surrogateescape"))
        if not isinstance(record, dict):
            raise ValueError(f"{beside.name} is not a JSON object")
    if text.is_file() and "captions" not in record:
        record["caption"] = text.read_text(encoding="utf-8", errors="surrogateescape").strip()
    return record


def _listed(root: Path) -> dict[str, dict[str, Any]]:
    """Rows of metadata.jsonl or metadata.csv by the file they speak of (column file_name)."""
    rows: list[dict[str, Any]] = []
    for name in LISTS:
        path = root / name
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            try:
                rows += (
                    csv.DictReader(file)
                    if name.endswith(".csv")
                    else [json.loads(line) for line in file if line.strip()]
                )
            except ValueError as error:
                raise UserError(
                    f"{path} has a line that is not JSON ({error}); expected one object in each line"
                ) from None
    unnamed = [row for row in rows if "file_name" not in row]
    if unnamed:
        raise UserError(f'a row of the list in "{root}" has no file_name; it has: {", ".join(map(str, unnamed[0]))}')
    return {row["file_name"]: {k: v for k, v in row.items() if k != "file_name"} for row in rows}
