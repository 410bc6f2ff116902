"""ARO (Yuksekgonul et al. 2022, 2210.01936): relations, attributes and word order, each a caption and false ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from data_pipelines.sample import Sample
from eval.datasets import Block, Dataset, Protocol
from eval.datasets._reading import absent, captioned, field_of, json_of, refuse_absent, stored, sum_of, together
from vlp.errors import UserError
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

REPOSITORY = "https://github.com/mertyg/vision-language-models-are-bows"
DRAWN = f"{REPOSITORY} (its false captions are drawn when they are asked for: write its test_cases as JSON)"
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


class Part(NamedTuple):
    """The file of a part, where its pictures are, how many entries it has, where to get it."""

    file: str
    images: str
    size: int
    source: str


PARTS = {
    "vg_relation": Part("visual_genome_relation.json", "images", 23_937, REPOSITORY),
    "vg_attribution": Part("visual_genome_attribution.json", "images", 28_748, REPOSITORY),
    "coco_order": Part("coco_order.json", "", 25_010, DRAWN),
    "flickr30k_order": Part("flickr30k_order.json", "", 5_000, DRAWN),
}


@dataclass(frozen=True, kw_only=True)
class Aro(Dataset):
    """One of its four parts. Those of Visual Genome are cut to the box that an entry names."""

    part: Literal["vg_relation", "vg_attribution", "coco_order", "flickr30k_order"] = "vg_relation"
    """what is false in the false captions"""
    images: str = ""
    """folder of the pictures under root; empty: images for Visual Genome, root itself for the others"""

    @property
    def spec(self) -> str:
        """Folder and part."""
        return f"{self.root or 'ARO'} ({self.part})"

    @property
    def protocol(self) -> Protocol:
        """One true caption each, with one false one or four."""
        metric = "per_category" if self.part == "vg_relation" else "accuracy"  # the mean over relations, as ARO has it
        return Protocol(expected=PARTS[self.part].size, metric=metric, source=PARTS[self.part].source)

    def missing(self) -> str:
        """No such file."""
        part = PARTS[self.part]
        return "" if self._file.is_file() else absent(f"ARO {self.part}", Path(self.root), [part.file], part.source)

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """In the order of the file. Raises UserError for pictures that are missing, unless `skip_damaged`."""
        rows = self._rows()
        refuse_absent([self._path(row) for row in rows], self._file, skip, skip_damaged=skip_damaged)
        yield from together(str(self._file), self._samples(rows, skip))

    def sha256(self) -> str:
        """Of the file and of the pictures that it names."""
        paths = [self._file, *(self._path(row) for row in self._rows())]
        return sum_of(f"aro {self.part}", Path(self.root), paths)

    @property
    def _file(self) -> Path:
        return Path(self.root).expanduser() / PARTS[self.part].file

    def _rows(self) -> list[Any]:
        rows = json_of(self._file, "a file of ARO")
        if not isinstance(rows, list) or not rows:
            raise UserError(f"{self._file} is no file of ARO: expected a list of entries")
        return rows

    @property
    def _boxed(self) -> bool:
        return self.part.startswith("vg_")

    def _path(self, row: Any) -> Path:
        name: str = field_of(row, "image_path" if self._boxed else "image", str, self._file)
        return self._file.parent / (self.images or PARTS[self.part].images) / name

    def _samples(self, rows: list[Any], skip: Ledger) -> Iterator[Sample]:
        for number, row in enumerate(rows):
            path = self._path(row)
            picture = stored(path, skip, str(self._file)) if path.is_file() else None
            if picture is not None and self._boxed:
                picture = _cut(picture[0], [field_of(row, side, int, self._file) for side in BOX], skip, str(path))
            if picture is not None:
                true, *false = self._captions(row)
                about = {"category": str(row["relation_name"])} if "relation_name" in row else {}
                yield captioned(f"{self.part}_{number:06d}", picture, {"en": [true]}, negatives=false, **about)

    def _captions(self, row: Any) -> list[str]:
        """The true caption, and then the false ones."""
        if self._boxed:
            return [field_of(row, name, str, self._file) for name in ("true_caption", "false_caption")]
        options: list[str] = field_of(row, "caption_options", list, self._file)
        if len(options) < 2 or not all(isinstance(one, str) and one for one in options):
            raise UserError(f"{self._file} has an entry without false captions; expected the true one and then others")
        return options


def _cut(data: bytes, box: list[int], skip: Ledger, place: str) -> tuple[bytes, str] | None:
    """The part of a picture inside `box` (left, top, width, height in pixels), as a PNG."""
    import numpy as np

    from eval.datasets._reading import png

    left, top, width, height = box
    try:
        cut = decode(data, Limits()).crop((left, top, left + width, top + height))
    except Refused as error:
        skip.drop(str(error), place)
        return None
    return png(np.asarray(cut))
