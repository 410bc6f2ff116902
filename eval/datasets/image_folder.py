"""Class folders as ImageNet has them: every folder is a class, named by its synset, its name or its number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from data_pipelines.sample import Sample
from data_pipelines.sources import safe_key
from data_pipelines.sources.folder import PICTURES
from eval.datasets import Block, Dataset, Protocol
from eval.datasets._labelled import own_classes, own_templates
from eval.datasets._reading import stored, sum_of, together
from eval.prompts.class_names import IMAGENET, first_names, synsets
from eval.prompts.classifier import spoken
from vlp.errors import UserError
from vlp.legible import plain

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Pictures in a folder for each class; those in folders below count too.

    Without a list of classes folders are called by their own names, and ImageNet's synsets by open_clip's.
    """

    classes: str = ""
    """list of classes: a file of eval/prompts/classes, imagenet, a .txt or .toml file; empty: classnames.txt in the
    folder, else the names of the folders. Folders are taken by name, by number (0, 1, ...), else in order"""
    subset: bool = False
    """whether only classes that have a folder take part, as for ImageNet-A and ImageNet-R; else each needs one"""
    templates: str = ""
    """set of templates, where zeroshot_classification_templates.txt is not in the folder; empty: the task's own"""
    source: str = "its makers"
    """where to get the dataset"""

    @property
    def protocol(self) -> Protocol:
        """Classes, and templates. Raises UserError for folders and lists of classes that do not fit."""
        return Protocol(
            classes=tuple(self._classes.values()),
            templates=own_templates(self._root, self.templates),
            label="class",
            source=self.source,
        )

    @classmethod
    def at(cls, folder: Path) -> Self | None:
        """`folder` itself, where the folders in it have pictures."""
        inside = sorted(one for one in folder.iterdir() if one.is_dir())
        some = any(path.suffix.lower() in PICTURES for one in inside[:3] for path in one.rglob("*"))
        return cls(root=str(folder)) if some else None

    def missing(self) -> str:
        """No folder, or no folders in it."""
        if self._root.is_dir() and self._folders:
            return ""
        return f'there are no class folders in "{self.root}": get them from {self.source}, and give --root FOLDER'

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The pictures of each folder, in the order of their names."""
        labels = dict(zip(self._classes, self.protocol.labels, strict=True))
        for folder in self._folders:
            if folder.name in labels:
                yield from together(str(folder), self._samples(folder, labels[folder.name], skip))

    def sha256(self) -> str:
        """Of every picture."""
        paths = [path for folder in self._folders for path in _pictures(folder)]
        return sum_of(f"image_folder {tuple(self._classes.items())}", self._root, paths)

    def _samples(self, folder: Path, label: str, skip: Ledger) -> Iterator[Sample]:
        for path in _pictures(folder):
            picture = stored(path, skip, str(folder))
            if picture is not None:
                key = safe_key(path.relative_to(self._root).with_suffix("").as_posix())
                yield Sample(key, *picture, {}, {"class": label, "folder": folder.name})

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser()

    @cached_property
    def _folders(self) -> list[Path]:
        folders = sorted(path for path in self._root.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [folder for folder in folders if next(_pictures(folder), None) or self.classes]

    @cached_property
    def _classes(self) -> dict[str, str]:
        """Name of each folder that takes part -> the name of its class, in the order of the numbers.

        Raises UserError for classes without a folder and the other way round.
        """
        folders = [folder.name for folder in self._folders]
        known = synsets()
        wanted = self.classes or (IMAGENET if folders and set(folders) <= known.keys() else "")
        names = first_names(own_classes(self._root, wanted))
        if not names:
            return {folder: spoken(folder) for folder in folders}
        number = self._numbered(folders, list(names), known if wanted == IMAGENET else {})
        absent = [name for i, name in enumerate(names) if i not in number.values()]
        if absent and not self.subset:
            raise UserError(
                f"{self.root} has no folder for {len(absent):,} of {len(names):,} classes, such as "
                f"{plain(absent[0])}: get it again, or say subset = true if that is how it is meant"
            )
        return {folder: names[i] for folder, i in sorted(number.items(), key=lambda pair: pair[1])}

    def _numbered(self, folders: list[str], names: list[str], known: dict[str, int]) -> dict[str, int]:
        """Folder -> the number of its class among `names`. Raises UserError for folders that are none."""
        if set(folders) <= known.keys():
            return {folder: known[folder] for folder in folders}
        called = {spoken(name): i for i, name in reversed(list(enumerate(names)))}
        if {spoken(folder) for folder in folders} <= called.keys():
            return {folder: called[spoken(folder)] for folder in folders}
        if all(folder.isascii() and folder.isdigit() and int(folder) < len(names) for folder in folders):
            return {folder: int(folder) for folder in folders}
        if len(folders) != len(names):
            raise UserError(
                f"{self.root} has {len(folders):,} class folders not called by the names of the list, which has "
                f"{len(names):,}: give a list in the order of the folders"
            )
        return {folder: i for i, folder in enumerate(folders)}


def _pictures(folder: Path) -> Iterator[Path]:
    return iter(path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES and path.is_file())
