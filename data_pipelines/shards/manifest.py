"""manifest.json: what is in a folder of shards, written last, so that what it lists is whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlp.errors import UserError
from vlp.files import write_whole

FILE = "manifest.json"
FORMAT = "vlp-shards-1"


@dataclass(frozen=True)
class ShardRecord:
    """One finished tar."""

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The shards of a folder, and what became of the inputs that are not in them."""

    name: str
    shards: tuple[ShardRecord, ...]
    counts: dict[str, int] = field(default_factory=dict)  # reason -> inputs left out
    examples: dict[str, list[str]] = field(default_factory=dict)  # reason -> the first few of them
    about: dict[str, Any] = field(default_factory=dict)  # the source's own words

    @property
    def samples(self) -> int:
        """How many samples all shards have together."""
        return sum(shard.samples for shard in self.shards)

    def text(self) -> str:
        """The manifest as JSON; equal manifests give equal bytes."""
        tree = {
            "format": FORMAT,
            "name": self.name,
            "samples": self.samples,
            "counts": dict(sorted(self.counts.items())),
            "examples": dict(sorted(self.examples.items())),
            "about": self.about,
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(tree, ensure_ascii=False, indent=1) + "\n"

    def write(self, folder: Path) -> None:
        """Put the manifest into `folder`, whole or not at all."""
        write_whole(folder / FILE, self.text())


def read(folder: Path) -> Manifest:
    """The manifest in `folder`. Raises UserError if there is none or it is of another format."""
    path = folder / FILE
    try:
        return parse(path.read_bytes(), where=str(path))
    except FileNotFoundError:
        raise UserError(f'there is no {FILE} in "{folder}"; build the shards with `vlp shards build`') from None


def parse(data: bytes, *, where: str) -> Manifest:
    """The manifest whose text is `data`.

    Raises UserError, which names `where`, if it is none of this format, lists no shards, or names one outside of its
    folder.
    """
    try:
        tree = json.loads(data)
        if tree["format"] != FORMAT:
            raise UserError(f'{where} has format "{tree["format"]}", expected "{FORMAT}"')
        shards = tuple(
            ShardRecord(str(row["file"]), int(row["samples"]), int(row["bytes"]), str(row["sha256"]))
            for row in tree["shards"]
        )
        rest = {name: tree.get(name, {}) for name in ("counts", "examples", "about")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where} is not a shard manifest ({error!r}): build it again with `vlp shards build`"
        ) from None
    for shard in shards:
        if shard.file.startswith("/") or ".." in Path(shard.file).parts:
            raise UserError(f'{where} names the shard "{shard.file}", which lies outside its folder')
    if not shards:
        raise UserError(f"{where} lists no shards")
    return Manifest(tree.get("name", ""), shards, **rest)
