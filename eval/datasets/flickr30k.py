"""Flickr30K in Karpathy's splits: dataset_flickr30k.json, and the pictures beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eval.datasets import Block, Dataset, Protocol
from eval.datasets._captions import Captioned, captioned_blocks, karpathy
from eval.datasets._reading import absent, sum_of

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

FILE = "dataset_flickr30k.json"
FOLDERS = ("flickr30k-images", "flickr30k_images", "images", "Images", "")
SOURCE = (
    "https://shannon.cs.illinois.edu/DenotationGraph (the pictures) and "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip (the splits)"
)
COUNTS = {"test": 1_000, "val": 1_014, "train": 29_000}


@dataclass(frozen=True, kw_only=True)
class Flickr30k(Dataset):
    """Pictures with five captions each."""

    split: Literal["test", "val", "train"] = "test"
    """which of Karpathy's splits"""
    annotations: str = FILE
    """file under root; one of the same form in another language will do"""
    language: str = "en"
    """language of the captions"""

    @property
    def spec(self) -> str:
        """Folder and split."""
        return f"{self.root or 'Flickr30K'} ({self.split})"

    @property
    def protocol(self) -> Protocol:
        """1,000 pictures in the test split."""
        return Protocol(expected=COUNTS[self.split], source=SOURCE)

    def missing(self) -> str:
        """No such file."""
        return "" if self._file.is_file() else absent("Flickr30K", Path(self.root), [self.annotations], SOURCE)

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """In the order of the file. Raises UserError for pictures that are missing, unless `skip_damaged`."""
        yield from captioned_blocks(self._items(), self._file, skip, skip_damaged=skip_damaged)

    def sha256(self) -> str:
        """Of the file and of the pictures that it names."""
        paths = [self._file, *(item.path for item in self._items())]
        return sum_of(f"flickr30k {self.split} {self.language}", Path(self.root), paths)

    @property
    def _file(self) -> Path:
        return Path(self.root).expanduser() / self.annotations

    def _items(self) -> list[Captioned]:
        return karpathy(self._file, self.split, [self._file.parent / name for name in FOLDERS], self.language)
