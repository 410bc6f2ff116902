"""Captions in COCO's JSON ("images" and "annotations"), with the pictures in a folder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sample import Sample
from data_pipelines.sources import Source, Unusable, as_stored, safe_key
from vlp.errors import UserError


@dataclass(frozen=True)
class CocoCaptions(Source):
    """Pictures with several captions each. All of them are kept, under "all_captions" in the sample's .json."""

    path: Path
    """the annotation file, such as captions_val2017.json"""
    images: Path | None = None
    """folder of the pictures; none: the folder that the annotation file lies in"""
    language: str = "en"
    """language of the captions"""

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """A sample for each picture, in the order of their ids. Raises UserError if the file is no such JSON."""
        path = self.path.expanduser()
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            pictures = sorted((int(row["id"]), str(row["file_name"])) for row in tree["images"])
            captions: dict[int, list[str]] = defaultdict(list)
            for row in sorted(tree["annotations"], key=lambda row: int(row["id"])):
                if text := str(row["caption"]).strip():
                    captions[int(row["image_id"])].append(text)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'"{path}" is not a COCO captions file ({error!r}); expected JSON with "images" and "annotations"'
            ) from None
        folder = (self.images or path.parent).expanduser()
        for number, name in pictures:
            yield self._item(folder / name, name, captions[number])

    def _item(self, path: Path, name: str, captions: list[str]) -> Sample | Unusable:
        if not captions:
            return Unusable("missing caption", name)
        try:
            stored = as_stored(path.read_bytes())
        except OSError as error:
            return Unusable("missing picture", f"{path}: {error.strerror}")
        if stored is None:
            return Unusable("undecodable picture", name)
        record = {"all_captions": {self.language: captions}}
        key = safe_key(Path(name).with_suffix("").as_posix())
        return Sample(key, stored[0], stored[1], {self.language: captions[0]}, record)
