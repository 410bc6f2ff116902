"""A dataset of Hugging Face's `datasets`: a folder that it saved, or a name at the hub, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.sample import Sample
from data_pipelines.sources import Source, Unusable, described
from data_pipelines.sources.parquet import caption_columns, named, row_sample
from vlp.errors import UserError

SAVED = ("dataset_dict.json", "state.json")  # files that save_to_disk writes


@dataclass(frozen=True)
class Datasets(Source):
    """Rows of a Hugging Face dataset. Pictures stay as they are; other columns go into the sample's .json."""

    keys_repeat: ClassVar[bool] = True

    path: str
    """a folder written by save_to_disk, or what load_dataset takes, such as nlphuji/flickr30k"""
    split: str = "train"
    """split to read; one part of it is written as train[:1000]"""
    config: str = ""
    """configuration of a dataset that has several; empty: the default one"""
    revision: str = ""
    """commit or tag of a dataset at the hub, so that the same rows come again; empty: the newest"""
    image: str = "image"
    """column of the pictures"""
    captions: dict[str, str] = field(default_factory=dict)
    """languages, each with the column of its captions (one text in each row, or a list); none named: text or caption"""
    key: str = ""
    """column that names the samples; empty: the split and the number of the row"""

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """A sample for each row, in order. Raises UserError if the dataset, the split or a column is missing."""
        rows, captions = self._undecoded(self._opened())
        labels = _labels(rows.features or {})
        for number, record in enumerate(rows):
            yield row_sample(
                named(dict(record), labels),
                place=f"{self.split}-{number:08d}",
                image=self.image,
                captions=captions,
                key=self.key,
                folder=Path(self.path).expanduser(),
            )

    def _opened(self) -> Any:
        import datasets

        folder = Path(self.path).expanduser()
        try:
            if any((folder / name).is_file() for name in SAVED):
                return _part(datasets.load_from_disk(str(folder)), self.split, str(folder))
            if not folder.exists() and self.path.startswith((".", "/", "~")):
                raise UserError(f'there is nothing at "{folder}"; expected a folder that save_to_disk wrote')
            streaming = "[" not in self.split  # a stream cannot be cut
            name, revision = self.config or None, self.revision or None
            where = str(folder) if folder.exists() else self.path
            return datasets.load_dataset(where, name, split=self.split, revision=revision, streaming=streaming)
        except (OSError, ValueError, RuntimeError) as error:  # what the package raises for names, splits, the network
            problem = " ".join(str(error).split())[:300]
            raise UserError(f'the dataset "{self.path}" cannot be read ({type(error).__name__}: {problem})') from None

    def inputs(self, part: str) -> str:
        """The files of a folder; what is at the hub is named by its revision."""
        folder = Path(self.path).expanduser()
        return described(folder, [path for path in folder.rglob("*") if path.is_file()]) if folder.is_dir() else ""

    def _undecoded(self, rows: Any) -> tuple[Any, Mapping[str, str]]:
        """The rows with pictures and other media as files, and the columns of captions.

        Raises UserError if a column is missing.
        """
        import datasets

        features = rows.features or {}
        names = list(features) or list(next(iter(rows), {}))
        captions = caption_columns(f'the dataset "{self.path}"', names, (self.image, self.key), self.captions)
        for name, kind in features.items():
            if isinstance(kind, datasets.Image | datasets.Audio | datasets.Video):
                rows = rows.cast_column(name, type(kind)(decode=False))
        return rows, captions


def _labels(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """column -> names of its classes, of columns of class labels, or of lists of them."""
    kinds = {column: getattr(kind, "feature", kind) for column, kind in features.items()}
    return {column: list(kind.names) for column, kind in kinds.items() if type(kind).__name__ == "ClassLabel"}


def _part(saved: Any, split: str, where: str) -> Any:
    """The rows of `split`, which may end in a range of rows, of what was saved: one split, or several by name."""
    import datasets

    name, _, rest = split.partition("[")
    if isinstance(saved, dict):
        if name not in saved:
            raise UserError(f'"{where}" has no split "{name}"; it has: {", ".join(saved)}')
        saved = saved[name]
    if not rest:
        return saved
    cuts = datasets.ReadInstruction.from_spec(f"all[{rest}").to_absolute({"all": len(saved)})
    return saved.select(
        [row for cut in cuts for row in range(cut.from_ or 0, len(saved) if cut.to is None else cut.to)]
    )
