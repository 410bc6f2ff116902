"""Captions in COCO's JSON ("images" and "annotations"), with the pictures in a folder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sample import Sample
from data_pipelines.sources import Source, Unusable, as_stored, described, not_read, safe_key
from vlp.errors import UserError


@dataclass(frozen=True)
class CocoCaptions(Source):
    """Pictures with several captions each. All of them are kept, under "all_captions" in the sample's .json."""

    path: Path
    """the annotation file, such as captions_val2017.json"""
    images: Path | None = None
    """folder of the pictures; none: where the file lies, or val2017 there for ..._val2017.json"""
    language: str = "en"
    """language of the captions"""

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """A sample for each picture, in the order of their ids. Raises UserError if the file is no such JSON."""
        path = self.path.expanduser()
        try:
            tree = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
            pictures = sorted((int(row["id"]), str(row["file_name"])) for row in tree["images"])
            captions: dict[int, list[str]] = defaultdict(list)
            for row in sorted(tree["annotations"], key=lambda row: int(row["id"])):
                if text := str(row["caption"]).strip():
                    captions[int(row["image_id"])].append(text)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'"{path}" is not a COCO captions file ({error!r}); expected JSON with "images" and "annotations"'
            ) from None
        folder = self._folder(path, [name for _, name in pictures])
        for number, name in pictures:
            yield self._item(folder, name, captions[number])

    def inputs(self, part: str) -> str:
        """The annotation file."""
        path = self.path.expanduser()
        return described(path.parent, [path] if path.is_file() else [])

    def _folder(self, path: Path, names: list[str]) -> Path:
        """The folder that has the pictures. Raises UserError if none of the usual ones has any."""
        split = path.stem.rsplit("_", 1)[-1]
        usual = [one / below for one in (path.parent, path.parent.parent) for below in ("", split, "images")]
        folders = [self.images.expanduser()] if self.images else [*usual[:3], *usual[4:]]
        for folder in folders:
            if not names or any((folder / name).is_file() for name in names[:1000]):
                return folder
        looked = ", ".join(f'"{one}"' for one in folders)
        raise UserError(
            f'none of the pictures of "{path}", such as "{names[0]}", is in {looked}; name their folder with --images'
        )

    def _item(self, folder: Path, name: str, captions: list[str]) -> Sample | Unusable:
        if not captions:
            return Unusable("missing caption", name)
        path = folder / name
        if path.exists() and (reason := not_read(path, folder)):
            return Unusable("unreadable file", f"{name}: {reason}")
        try:
            stored = as_stored(path.read_bytes())
        except OSError as error:
            return Unusable("missing picture", f"{path}: {error.strerror}")
        if stored is None:
            return Unusable("undecodable picture", name)
        record = {"all_captions": {self.language: captions}}
        key = safe_key(Path(name).with_suffix("").as_posix())
        return Sample(key, stored[0], stored[1], {self.language: captions[0]}, record)
