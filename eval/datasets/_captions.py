"""What datasets of pictures with captions share: Karpathy's JSON, items that become samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.sources import safe_key
from eval.datasets import Block
from eval.datasets._reading import captioned, field_of, json_of, refuse_absent, stored, texts_of, together
from vlp.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger
    from data_pipelines.sample import Sample


@dataclass(frozen=True)
class Captioned:
    """A picture, its captions, and what else a sample's metadata should say."""

    path: Path
    texts: Mapping[str, tuple[str, ...]]  # language -> captions, the first one first
    metadata: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""  # empty: the name of the file

    def first(self, count: int) -> Captioned:
        """The same with at most `count` captions in each language; 0: with all."""
        return replace(self, texts={code: some[:count] for code, some in self.texts.items()}) if count else self


def captioned_blocks(items: Sequence[Captioned], file: Path, skip: Ledger, *, skip_damaged: bool) -> Iterator[Block]:
    """The samples of `items`, which `file` names.

    Raises UserError for pictures that are missing, unless `skip_damaged`: they are counted in `skip` then.
    """
    refuse_absent([item.path for item in items], file, skip, skip_damaged=skip_damaged)
    yield from together(str(file), _samples(items, skip, str(file)))


def _samples(items: Iterable[Captioned], skip: Ledger, place: str) -> Iterator[Sample]:
    for item in items:
        picture = stored(item.path, skip, place) if item.path.is_file() else None
        if picture is not None:
            yield captioned(item.key or safe_key(item.path.stem), picture, item.texts, **item.metadata)


def karpathy(file: Path, split: str, folders: Sequence[Path], language: str) -> list[Captioned]:
    """The pictures of one split of Karpathy's JSON (Karpathy and Li 2015); they lie in one of `folders`.

    Raises UserError if it is none, or has no such split.
    """
    rows = field_of(json_of(file, "Karpathy's JSON"), "images", list, file)
    splits = {field_of(row, "split", str, file) for row in rows}
    if split not in splits:
        raise UserError(f'{file} has no split "{split}"; it has: {", ".join(sorted(splits)) or "none"}')
    items = []
    for row in rows:
        if row["split"] == split:
            name = Path(str(row.get("filepath", ""))) / field_of(row, "filename", str, file)
            texts = [text for one in field_of(row, "sentences", list, file) for text in texts_of(one.get("raw"), file)]
            if not texts:
                raise UserError(f"{file} has no caption for {name}; get it again")
            usual = (folder / path for folder in folders for path in (name, Path(name.name)))
            path = next((path for path in usual if path.is_file()), folders[0] / name)
            items.append(Captioned(path, {language: tuple(texts)}))
    return items
