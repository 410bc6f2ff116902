"""COCO captions: Karpathy's split (dataset_coco.json), or a file of COCO's own with its pictures beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from eval.datasets import Block, Dataset, Protocol
from eval.datasets._captions import Captioned, captioned_blocks, karpathy
from eval.datasets._reading import absent, field_of, first_there, json_of, sum_of, texts_of
from vlp.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

USUAL = ("dataset_coco.json", "annotations/captions_val2017.json", "captions_val2017.json")
SOURCE = (
    "https://cocodataset.org (val2014.zip or val2017.zip, and annotations_trainval2017.zip) and, for Karpathy's split, "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
)


@dataclass(frozen=True, kw_only=True)
class CocoCaptions(Dataset):
    """Pictures with five or more captions; of Karpathy's file the split that is asked for."""

    annotations: str = ""
    """file under root; empty: the first there is of dataset_coco.json, annotations/captions_val2017.json and
    captions_val2017.json"""
    split: str = "test"
    """split of Karpathy's file"""
    images: str = ""
    """folder of the pictures under root; empty: the one that the file names, or that is named by the file"""
    most_captions: Annotated[int, Ge(0)] = 0
    """most captions of a picture that take part; 0: all of them"""
    language: str = "en"
    """language of the captions"""

    @property
    def protocol(self) -> Protocol:
        """5,000 pictures, in Karpathy's test and validation splits as in val2017."""
        file = self._file()
        if file is None:
            return Protocol(source=SOURCE)
        known = self.split in ("test", "val") if self._karpathy(file) else "val2017" in file.name
        return Protocol(expected=5_000 if known else None, source=SOURCE)

    def missing(self) -> str:
        """No such file."""
        names = [self.annotations] if self.annotations else USUAL
        return "" if self._file() else absent("COCO captions", Path(self.root), names, SOURCE)

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """In the order of the file. Raises UserError for pictures that are missing, unless `skip_damaged`."""
        file = self._there()
        yield from captioned_blocks(self._items(file), file, skip, skip_damaged=skip_damaged)

    def sha256(self) -> str:
        """Of the file and of the pictures that it names."""
        file = self._there()
        settings = f"coco_captions {self.split} {self.most_captions} {self.language}"
        return sum_of(settings, Path(self.root), [file, *(item.path for item in self._items(file))])

    def _items(self, file: Path) -> list[Captioned]:
        folder = file.parent / self.images if self.images else None
        if self._karpathy(file):
            folders = [folder] if folder else [file.parent, file.parent / "images"]
            items = karpathy(file, self.split, folders, self.language)
        else:
            items = self._own(file, folder)
        return [item.first(self.most_captions) for item in items]

    def _own(self, file: Path, folder: Path | None) -> list[Captioned]:
        """What a file of COCO's own says. Raises UserError if it is none."""
        tree = json_of(file, "a COCO captions file")
        captions: dict[int, list[str]] = {}
        for row in sorted(field_of(tree, "annotations", list, file), key=lambda row: field_of(row, "id", int, file)):
            captions.setdefault(field_of(row, "image_id", int, file), []).extend(texts_of(row.get("caption"), file))
        rows = sorted((field_of(r, "id", int, file), field_of(r, "file_name", str, file)) for r in tree["images"])
        silent = [name for number, name in rows if number not in captions]
        if silent:
            raise UserError(f"{file} has no caption for {len(silent):,} of its pictures, such as {silent[0]}")
        part = file.stem.rsplit("_", 1)[-1]
        usual = [file.parent / part, file.parent.parent / part, file.parent, file.parent / "images"]
        place = folder or next((one for one in usual if rows and (one / rows[0][1]).is_file()), usual[0])
        return [Captioned(place / name, {self.language: tuple(captions[number])}) for number, name in rows]

    def _file(self) -> Path | None:
        return first_there(Path(self.root).expanduser(), [self.annotations] if self.annotations else USUAL)

    def _there(self) -> Path:
        file = self._file()
        if file is None:
            raise UserError(self.missing())
        return file

    @staticmethod
    def _karpathy(file: Path) -> bool:
        return file.name.startswith("dataset_")
