"""CountBench (Paiss et al. 2023, 2302.12066): captions that count two to ten things; false ones count other numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.sample import Sample
from eval.datasets import Block, Dataset, Protocol
from eval.datasets._reading import absent, captioned, sum_of, together
from eval.datasets._saved import column_there, is_saved, picture_of, rows_of

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

SOURCE = "the hub with datasets.load_dataset('nielsr/countbench').save_to_disk(FOLDER)"
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, kw_only=True)
class CountBench(Dataset):
    """A `datasets` folder with the columns image, text and number; rows whose picture is gone are left out."""

    split: str = "train"
    """split, where the folder has several"""

    @property
    def protocol(self) -> Protocol:
        """One true caption and eight false ones; how many pictures can still be had changes."""
        return Protocol(source=SOURCE)

    def missing(self) -> str:
        """No such folder."""
        names = ["a folder that save_to_disk wrote"]
        return "" if is_saved(self._folder) else absent("CountBench", self._folder, names, SOURCE)

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The rows, in order. Rows without a picture, or whose text has no number, are left out and counted."""
        yield from together(str(self._folder), self._samples(skip))

    def sha256(self) -> str:
        """Of all files of the folder."""
        return sum_of(f"countbench {self.split}", self._folder, self._folder.rglob("*"))

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser()

    def _samples(self, skip: Ledger) -> Iterator[Sample]:
        rows = rows_of(self._folder, self.split)
        for column in ("image", "text", "number"):
            column_there(rows, column, self._folder)
        for place, row in enumerate(rows):
            picture, text, number = picture_of(row["image"], self._folder), str(row["text"]), row["number"]
            false = false_counts(text, number)
            if picture is None or not false:
                skip.drop("undecodable caption" if picture else "missing picture", str(self._folder))
            else:
                yield captioned(f"countbench_{place:04d}", picture, {"en": [text]}, negatives=false, number=number)


def false_counts(text: str, number: int) -> list[str]:
    """The text with every other number of two to ten in place of `number`; none where it does not say that.

    >>> false_counts("Three cats and a dog", 3)[:2]
    ['two cats and a dog', 'four cats and a dog']
    """
    if not 2 <= number <= 10:
        return []
    word = NUMBERS[number - 2]
    pattern = re.compile(rf"\b{word}\b", re.IGNORECASE)
    return [pattern.sub(other, text) for other in NUMBERS if other != word] if pattern.search(text) else []
