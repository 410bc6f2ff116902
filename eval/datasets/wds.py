"""CLIP_benchmark's `wds/` layout: tars in a folder for each split, classes, templates and the type in text files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from annotated_types import Ge

from data_pipelines.remote.fetch import LocalFile
from data_pipelines.sample import Sample
from data_pipelines.shards.tar_index import build
from data_pipelines.sources import as_stored, safe_key
from eval.datasets import Block, Dataset, Protocol
from eval.datasets._labelled import CLASSES, own_classes, own_templates
from eval.datasets._reading import captioned, sum_of, together
from eval.embeddings.encode import DAMAGE
from eval.prompts.class_names import first_names
from vlp.errors import UserError
from vlp.legible import plain

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger

COUNT, KIND = "nshards.txt", "dataset_type.txt"
KINDS = ("classification", "multilabel", "retrieval")
PICTURES = ("webp", "png", "jpg", "jpeg")
SOURCE = "https://huggingface.co/clip-benchmark, or write it with clip_benchmark_export_wds"


@dataclass(frozen=True, kw_only=True)
class Wds(Dataset):
    """Classification (.cls), classification with several classes (.npy) or retrieval (.txt, a caption in each line)."""

    split: str = "test"
    """folder of the tars under root"""
    classes: str = ""
    """list of classes, in place of classnames.txt"""
    templates: str = ""
    """set of templates, where zeroshot_classification_templates.txt is not there; empty: the task's own"""
    columns: tuple[str, ...] = ()
    """names of the numbers in a .npy beside a .cls, as the sets of WILDS have them; they go into the metadata"""
    groups: str = ""
    """the one of `columns` that groups the pictures; the worst group is measured; empty: none does"""
    except_groups: tuple[Annotated[int, Ge(0)], ...] = ()
    """groups that are not compared with the others"""
    metric: str = ""
    """metric that stands for the dataset, such as mean_per_class_recall; empty: the task's own"""
    language: str = "en"
    """language of the captions"""

    @property
    def protocol(self) -> Protocol:
        """What the text files say. Raises UserError for a type that is none, and for classes without names."""
        kind = self._kind
        if kind == "retrieval":
            return Protocol(metric=self.metric, source=SOURCE)
        names = first_names(own_classes(self._root, self.classes))
        if not names:
            raise UserError(
                f"{self.root} has no {CLASSES}, and its classes are numbers: give a list with --classes FILE"
            )
        return Protocol(
            classes=tuple(names),
            templates=own_templates(self._root, self.templates),
            label="class",
            multi_label=kind == "multilabel",
            metric=self.metric,
            groups=self.groups,
            except_groups=self.except_groups,
            source=SOURCE,
        )

    @classmethod
    def at(cls, folder: Path) -> Self | None:
        """`folder` itself, where its split test has the number of its shards."""
        return cls(root=str(folder)) if (folder / "test" / COUNT).is_file() else None

    def missing(self) -> str:
        """No number of shards, which is what makes such a folder."""
        file = self._root / self.split / COUNT
        return "" if file.is_file() else f"there is no {file}: get the dataset from {SOURCE}, and give --root FOLDER"

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The samples of every tar, in order. Raises UserError for a tar that is missing or damaged."""
        labels, kind = self.protocol.labels, self._kind
        for path in self._tars():
            if not path.is_file() and not skip_damaged:
                count = (self._root / self.split / COUNT).read_text(encoding="utf-8").strip()
                raise UserError(
                    f"{path} is missing, of the {count} that {COUNT} counts: get it again, or --skip-damaged"
                )
            if path.is_file():
                _judge_end(path, skip, skip_damaged=skip_damaged)
                rows = _members(path, skip, skip_damaged=skip_damaged)
                samples = (self._sample(row, str(path), kind, labels, skip) for row in rows)
                yield from together(str(path), (sample for sample in samples if sample is not None))
            else:
                skip.drop("unreadable shard", str(path))

    def sha256(self) -> str:
        """Of the tars and the text files."""
        return sum_of(f"wds {self.split}", self._root, [*self._tars(), *self._root.glob("*.txt")])

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser()

    @property
    def _kind(self) -> str:
        path = self._root / KIND
        kind = path.read_text(encoding="utf-8").strip().lower() if path.is_file() else KINDS[0]
        if kind not in KINDS:
            raise UserError(f'{path} says "{plain(kind, 40)}"; expected one of: {", ".join(KINDS)}')
        return kind

    def _tars(self) -> list[Path]:
        path = self._root / self.split / COUNT
        text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        if not text.isdigit() or int(text) < 1:
            raise UserError(f'{path} says "{plain(text, 40)}"; expected the number of tars')
        return [self._root / self.split / f"{i}.tar" for i in range(int(text))]

    def _sample(
        self, row: Mapping[str, Any], place: str, kind: str, labels: tuple[str, ...], skip: Ledger
    ) -> Sample | None:
        data = next((row[ending] for ending in PICTURES if ending in row), None)
        picture = as_stored(data) if data else None
        if picture is None:
            skip.drop("undecodable picture" if data else "missing picture", place)
            return None
        key = safe_key(str(row["__key__"]))
        if kind == "retrieval":
            texts = [line.strip() for line in _text(row, "txt", place).splitlines() if line.strip()]
            if not texts:
                raise UserError(f"{place} has no caption for {plain(key)}; get it again")
            return captioned(key, picture, {self.language: texts})
        if kind == "multilabel":
            flags = _numbers(row, place)
            if len(flags) != len(labels):
                raise UserError(f"{place} has {len(flags)} flags for {plain(key)}, but there are {len(labels)} classes")
            return captioned(key, picture, {}, **{"class": [labels[i] for i in np.flatnonzero(flags)]})
        number = _text(row, "cls", place).strip()
        if not number.isdigit() or int(number) >= len(labels):
            raise UserError(f'{place} has the class "{plain(number, 40)}" for {plain(key)}, of {len(labels)} classes')
        more = dict(zip(self.columns, _numbers(row, place).tolist(), strict=False)) if self.columns else {}
        return captioned(key, picture, {}, **more, **{"class": labels[int(number)]})


def _judge_end(path: Path, skip: Ledger, *, skip_damaged: bool) -> None:
    """Raise UserError for a tar that is cut off, of which tarfile would give out the beginning without a word.

    With `skip_damaged` it is counted.
    """
    lost = build(LocalFile(str(path))).lost
    for reason in sorted(lost.keys() & set(DAMAGE)):
        if not skip_damaged:
            raise UserError(
                f"{path} cannot be read to its end ({reason}): get it again, or go on without what is lost: "
                "--skip-damaged"
            )
        skip.drop(reason, str(path), lost[reason])


def _members(path: Path, skip: Ledger, *, skip_damaged: bool) -> Iterator[dict[str, Any]]:
    """The samples of a tar as webdataset groups them, bytes by ending. Raises UserError for a tar that is cut off."""
    import webdataset

    rows = iter(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False, handler=_raise))
    while True:
        try:
            row = next(rows, None)
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            if not skip_damaged:
                raise UserError(f"{path} is no tar that can be read ({plain(error)}): get it again") from None
            return  # what is lost was counted
        if row is None:
            return
        if "__key__" in row:
            yield row


def _raise(error: Exception) -> bool:
    raise error


def _text(row: Mapping[str, Any], ending: str, place: str) -> str:
    if ending not in row:
        raise UserError(f"{place} has no .{ending} for {plain(row['__key__'])}; get it again")
    return bytes(row[ending]).decode(errors="replace")


def _numbers(row: Mapping[str, Any], place: str) -> Any:
    """[n] the numbers of a .npy. Raises UserError if it is none."""
    try:
        return np.load(io.BytesIO(row["npy"]), allow_pickle=False).ravel()
    except Exception as error:  # numpy parses the header as Python, and raises what comes of it
        raise UserError(f"{place} has no array of numbers for {plain(row['__key__'])} ({plain(error)})") from None
