"""WinoGAViL (Bitton et al. 2022, 2207.12576): a cue, and a set of pictures of which some are associated with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.sample import Sample
from eval.datasets import Block, Dataset, Protocol
from eval.datasets._reading import absent, sum_of, together
from eval.datasets._saved import column_there, is_saved, picture_of, rows_of
from vlp.errors import UserError
from vlp.legible import plain

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

SOURCE = "the hub with datasets.load_dataset('nlphuji/winogavil', split='test').save_to_disk(FOLDER)"
COLUMNS = ("cue", "candidates", "candidate_images", "associations")


@dataclass(frozen=True, kw_only=True)
class WinoGaViL(Dataset):
    """A `datasets` folder; every candidate is a sample, with its item, the item's cue, and whether it is associated."""

    split: str = "test"
    """split, where the folder has several"""

    @property
    def protocol(self) -> Protocol:
        """The Jaccard index of the items with ten candidates or more, as DataComp has it."""
        return Protocol(metric="jaccard_10_12", source=SOURCE)

    def missing(self) -> str:
        """No such folder."""
        names = ["a folder that save_to_disk wrote"]
        return "" if is_saved(self._folder) else absent("WinoGAViL", self._folder, names, SOURCE)

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The candidates of each row, in order. Raises UserError for a row that is none."""
        yield from together(str(self._folder), self._samples(skip))

    def sha256(self) -> str:
        """Of all files of the folder."""
        return sum_of(f"winogavil {self.split}", self._folder, self._folder.rglob("*"))

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser()

    def _samples(self, skip: Ledger) -> Iterator[Sample]:
        rows = rows_of(self._folder, self.split)
        for column in COLUMNS:
            column_there(rows, column, self._folder)
        for number, row in enumerate(rows):
            yield from self._candidates(number, row, skip)

    def _candidates(self, number: int, row: dict[str, Any], skip: Ledger) -> Iterator[Sample]:
        cue, names, pictures, own = (row[column] for column in COLUMNS)
        if not cue or len(names) != len(pictures) or not 0 < len(set(own) & set(names)) < len(names):
            raise UserError(f"row {number} of {self._folder} is no item of WinoGAViL (its cue: {plain(cue, 40)})")
        for place, (name, cell) in enumerate(zip(names, pictures, strict=True)):
            picture = picture_of(cell, self._folder)
            if picture is None:
                skip.drop("undecodable picture" if cell else "missing picture", str(self._folder))
            else:
                about = {"item": str(number), "cue": str(cue), "associated": name in own}
                yield Sample(f"{number:05d}_{place:02d}", *picture, {}, about)
