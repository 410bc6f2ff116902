"""A dataset of Hugging Face's `datasets`: a folder that it saved, or a name at the hub, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.sample import Sample
from data_pipelines.sources import Source, Unusable
from data_pipelines.sources.parquet import PLAIN, row_sample
from vlp.errors import UserError

SAVED = ("dataset_dict.json", "state.json")  # files that save_to_disk writes


@dataclass(frozen=True)
class Datasets(Source):
    """Rows of a Hugging Face dataset. Pictures stay as they are; other columns go into the sample's .json."""

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
    """languages, each with the column of its captions (one text in each row, or a list); none named: en text"""
    key: str = ""
    """column that names the samples; empty: the split and the number of the row"""

    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """A sample for each row, in order. Raises UserError if the dataset, the split or a column is missing."""
        rows = self._undecoded(self._opened())
        for number, record in enumerate(rows):
            yield row_sample(
                dict(record),
                place=f"{self.split}-{number:08d}",
                image=self.image,
                captions=self.captions or PLAIN,
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

    def _undecoded(self, rows: Any) -> Any:
        """The rows with pictures and other media as files. Raises UserError if a column is missing."""
        import datasets

        features = rows.features or {}
        names = list(features) or list(next(iter(rows), {}))
        for wanted in (self.image, *(self.captions or PLAIN).values(), *filter(None, (self.key,))):
            if wanted not in names:
                raise UserError(f'the dataset "{self.path}" has no column "{wanted}"; it has: {", ".join(names)}')
        for name, kind in features.items():
            if isinstance(kind, datasets.Image | datasets.Audio | datasets.Video):
                rows = rows.cast_column(name, type(kind)(decode=False))
        return rows


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
