"""A dataset of Hugging Face's `datasets` that save_to_disk wrote: columns of pictures, classes and captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from data_pipelines.sample import Sample
from eval.datasets import Block, Dataset, Protocol
from eval.datasets._labelled import own_classes
from eval.datasets._reading import absent, captioned, sum_of, together
from eval.datasets._saved import class_names, column_there, is_saved, picture_of, rows_of, splits_of
from eval.prompts.class_names import first_names
from eval.prompts.templates import texts_of_set
from vlp.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

SOURCE = "the hub with datasets.load_dataset(...).save_to_disk(FOLDER)"
USUAL_CAPTIONS = ("caption", "captions", "text")


@dataclass(frozen=True, kw_only=True)
class HfDisk(Dataset):
    """The rows of one split. Other columns of texts and numbers go into the metadata."""

    split: str = "test"
    """split, where the folder has several"""
    image: str = "image"
    """column of the pictures"""
    label: str = ""
    """column of the classes, one or a list in each row; empty: label, where there is one"""
    classes: str = ""
    """list of classes, in the order of the numbers; empty: the names that the column of class labels has"""
    templates: str = ""
    """set of templates; empty: the task's own"""
    captions: dict[str, str] = field(default_factory=dict)
    """languages, each with the column of its captions; none: caption, captions or text, where there is one, for en"""

    @property
    def spec(self) -> str:
        """Folder and split."""
        return f"{self.root} ({self.split})"

    @property
    def protocol(self) -> Protocol:
        """The classes of the column. Raises UserError for a list of another length."""
        names = tuple(class_names(self._rows, self._label)) if self._label else ()
        if self.classes:
            listed = tuple(first_names(own_classes(Path(self.root), self.classes)))
            if names and len(names) != len(listed):
                raise UserError(
                    f'{self.classes} has {len(listed)} classes, but the column "{self._label}" of {self.root} has '
                    f"{len(names)}: give a list in the order of its numbers"
                )
            names = listed
        templates = texts_of_set(self.templates) if self.templates else ()
        several = bool(self._label) and "feature" in vars(self._rows.features[self._label])
        return Protocol(names, templates, "class" if self._label else "", multi_label=several, source=SOURCE)

    @classmethod
    def at(cls, folder: Path) -> Self | None:
        """`folder` itself, where save_to_disk wrote it; of several splits test, else the last."""
        if not is_saved(folder):
            return None
        splits = splits_of(folder) or ["test"]
        return cls(root=str(folder), split="test" if "test" in splits else splits[-1])

    def missing(self) -> str:
        """No such folder."""
        names = ["a folder that save_to_disk wrote"]
        return "" if is_saved(self._folder) else absent("saved dataset", self._folder, names, SOURCE)

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The rows, in order. Rows without a picture are left out and counted."""
        yield from together(str(self._folder), self._samples(skip))

    def sha256(self) -> str:
        """Of all files of the folder."""
        return sum_of(f"hf_disk {self.split}", self._folder, self._folder.rglob("*"))

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser()

    @cached_property
    def _rows(self) -> Any:
        rows = rows_of(self._folder, self.split)
        for column in (self.image, *filter(None, [self.label]), *self.captions.values()):
            column_there(rows, column, self._folder)
        return rows

    @property
    def _label(self) -> str:
        return self.label or ("label" if "label" in self._rows.features else "")

    @property
    def _captions(self) -> dict[str, str]:
        usual = next((name for name in USUAL_CAPTIONS if name in self._rows.features), "")
        return self.captions or ({"en": usual} if usual else {})

    def _samples(self, skip: Ledger) -> Iterator[Sample]:
        labels = self.protocol.labels
        for number, row in enumerate(self._rows):
            cell = row.pop(self.image)
            picture = picture_of(cell, self._folder)
            if picture is None:
                skip.drop("undecodable picture" if cell else "missing picture", str(self._folder))
                continue
            texts = {language: _texts(row.pop(column)) for language, column in self._captions.items()}
            known = {name: value for name, value in row.items() if isinstance(value, str | int | float | list)}
            if self._label and (value := known.pop(self._label, None)) is not None:
                known["class"] = self._named(value, labels)
            yield captioned(
                f"{self.split}_{number:08d}", picture, {k: some for k, some in texts.items() if some}, **known
            )

    def _named(self, value: Any, labels: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [self._named(one, labels) for one in value]
        if not isinstance(value, int) or not labels:
            return str(value)
        if not 0 <= value < len(labels):
            raise UserError(f'{self.root} has the class {value} in "{self._label}", but there are {len(labels)} names')
        return labels[value]


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one.strip() for one in values if isinstance(one, str) and one.strip()]
