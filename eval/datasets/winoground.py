"""Winoground (Thrush et al. 2022, 2204.03162): pairs of pictures and of captions of the same words in another order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.datasets import Block, Dataset, Protocol
from eval.datasets._captions import Captioned, captioned_blocks
from eval.datasets._reading import absent, field_of, first_there, sum_of
from vlp.errors import UserError
from vlp.legible import plain

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

SOURCE = "https://huggingface.co/datasets/facebook/winoground (data/examples.jsonl, and data/images.zip unpacked)"
FILES = ("examples.jsonl", "data/examples.jsonl")
FOLDERS = ("images", "data/images")


@dataclass(frozen=True, kw_only=True)
class Winoground(Dataset):
    """400 items of two samples each, which share their `pair`; either's caption is false of the other."""

    @property
    def protocol(self) -> Protocol:
        """800 pictures."""
        return Protocol(expected=800, source=SOURCE)

    def missing(self) -> str:
        """No such file."""
        return "" if self._file() else absent("Winoground", Path(self.root), FILES, SOURCE)

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The first and then the second picture of each item. Raises UserError for pictures that are missing."""
        yield from captioned_blocks(self._items(), self._there(), skip, skip_damaged=skip_damaged)

    def sha256(self) -> str:
        """Of the file and of the pictures that it names."""
        paths = [self._there(), *(item.path for item in self._items())]
        return sum_of("winoground", Path(self.root), paths)

    def _file(self) -> Path | None:
        return first_there(Path(self.root).expanduser(), FILES)

    def _there(self) -> Path:
        file = self._file()
        if file is None:
            raise UserError(self.missing())
        return file

    def _items(self) -> list[Captioned]:
        file = self._there()
        folder = first_there(Path(self.root).expanduser(), FOLDERS) or file.parent / "images"
        items = []
        try:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except ValueError as error:
            raise UserError(
                f"{file} has a line that is no JSON ({plain(error)}): it was cut off, get it again"
            ) from None
        for row in rows:
            texts = [field_of(row, f"caption_{i}", str, file).strip() for i in (0, 1)]
            number = field_of(row, "id", int, file)
            for i in (0, 1):
                items.append(
                    Captioned(
                        folder / f"{field_of(row, f'image_{i}', str, file)}.png",
                        {"en": (texts[i],)},
                        {"pair": str(number), "negatives": [texts[1 - i]], "category": str(row.get("tag", ""))},
                        key=f"{number}_{i}",
                    )
                )
        return items
