"""`vlp classify INDEX|STORE --classes LIST`: to each vector its class, by the texts of the classes (zero-shot)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from eval.embeddings.store import EmbeddingStore
from eval.embeddings.store import about as about_store
from eval.index import Floats, Ints
from eval.progress_bar import progress_bar
from eval.prompts.class_names import classes, first_names
from eval.prompts.classifier import class_vectors
from eval.prompts.templates import templates
from eval.search.classify_page import Example, classify_page, pictures
from eval.search.gallery import Gallery
from eval.search.parts import BLOCK, Part, parts_of
from eval.search.spool import vectors_of
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import cell, plain

if TYPE_CHECKING:
    import pyarrow as pa

    from vlp.models.release import Release

NUMBERS = 1 << 24  # cosines that are in memory at a time
SHOWN = 40  # classes that the table has
EXAMPLES = 8  # of each class, for the page
ENDINGS = (".parquet", ".csv")


@dataclass(frozen=True)
class Classifier:
    """Classes, and how a vector is told which is its own."""

    names: tuple[str, ...]  # (C,)
    vectors: Floats  # [C, D] unit norm
    scale: float  # of the model's logits

    @classmethod
    def of(cls, release: Release, names: str, template_set: str) -> Classifier:
        """The classes of a list (see `listed`) in the templates of a set. Raises UserError for one that is none."""
        several = listed(names)
        vectors = class_vectors(release, several, templates(template_set))
        return cls(tuple(first_names(several)), vectors, release.encoder.logit_scale.exp().item())

    def best(self, vectors: Floats, top: int) -> tuple[Ints, Floats, Floats]:
        """[n, top] of vectors [n, D]: the best classes, their probabilities (softmax over all), their cosines."""
        cosine = vectors @ self.vectors.T
        logits = self.scale * (cosine - cosine.max(1, keepdims=True))
        share = np.exp(logits)
        share /= share.sum(1, keepdims=True)
        best = np.argpartition(cosine, -top, axis=1)[:, -top:]
        inside = np.argsort(-np.take_along_axis(cosine, best, 1), axis=1, kind="stable")
        order = np.take_along_axis(best, inside, 1)
        return order, np.take_along_axis(share, order, 1), np.take_along_axis(cosine, order, 1)


def listed(names: str) -> tuple[tuple[str, ...], ...]:
    """[C] every name of each class: those between commas, or those of a list or file (see `classes`). Raises UserError.

    >>> listed("cat, dog")
    (('cat',), ('dog',))
    """
    if "," not in names:
        return classes(names)
    words = [word.strip() for word in names.split(",") if word.strip()]
    twice = next((word for i, word in enumerate(words) if word in words[:i]), "")
    if twice or len(words) < 2:
        raise UserError(
            f'--classes has "{plain(twice)}" twice; name each class once'
            if twice
            else f"--classes is {plain(names)!r}, but two classes are needed, such as cat,dog"
        )
    return tuple((word,) for word in words)


@dataclass
class Counts:
    """How many vectors each class has, how sure they are, and the surest ones."""

    names: tuple[str, ...]
    number: Ints = field(init=False)  # [C]
    score: NDArray[np.float64] = field(init=False)  # [C] sum of probabilities
    examples: list[list[Example]] = field(init=False)  # [C] the surest first

    def __post_init__(self) -> None:
        self.number = np.zeros(len(self.names), np.int64)
        self.score = np.zeros(len(self.names))
        self.examples = [[] for _ in self.names]

    def add(self, rows: pa.Table, first: Ints, score: Floats, keep: int) -> None:
        """Count vectors [n] by their class `first`, with its probability; keep the `keep` surest of each."""
        self.number += np.bincount(first, minlength=len(self.names))
        self.score += np.bincount(first, score, minlength=len(self.names))
        for name in np.unique(first) if keep else ():
            mine = np.flatnonzero(first == name)
            mine = mine[np.argsort(-score[mine], kind="stable")[:keep]]
            some = rows.take(mine).to_pylist()
            new = [Example(float(score[i]), **row) for i, row in zip(mine, some, strict=True)]
            both = sorted([*self.examples[name], *new], key=lambda one: -one.score)
            self.examples[name] = both[:keep]

    def largest(self) -> list[int]:
        """Numbers of the classes that have vectors, the largest first."""
        return [int(i) for i in np.argsort(-self.number, kind="stable") if self.number[i]]


def rows_of(where: Path, release: Release, *, trust: bool = False) -> tuple[int, Iterator[Part]]:
    """How many vectors an index or a folder of embeddings has, and its rows (key, shard, id) with them, some at a time.

    Raises UserError if it is neither, or not of this model.
    """
    if (where / "index.toml").is_file():
        gallery = Gallery.open(where, trust=trust)
        gallery.check_model(release)
        return len(gallery.vectors), _of_index(gallery)
    store = EmbeddingStore.open(where)
    count = sum(len(store.images(part)) for part in store.parts)
    return count, _of_store(parts_of(release, str(where), thumbnail=0).stream)


def _of_index(gallery: Gallery) -> Iterator[Part]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    live, vectors, start = gallery.vectors.live_ids(), vectors_of(gallery.files), 0
    with pq.ParquetFile(gallery.files / "rows.parquet") as file:
        for batch in file.iter_batches(BLOCK, columns=["key", "shard"]):
            inside = live[np.searchsorted(live, start) : np.searchsorted(live, start + len(batch))]
            rows = pa.Table.from_batches([batch]).take(inside - start)
            yield rows.append_column("id", pa.array(inside)), np.asarray(vectors[inside], np.float32)
            start += len(batch)


def _of_store(stream: Iterator[Part]) -> Iterator[Part]:
    import pyarrow as pa

    start = 0
    for rows, vectors in stream:
        numbered = rows.select(["key", "shard"]).append_column("id", pa.array(np.arange(start, start + len(rows))))
        yield numbered, vectors
        start += len(rows)


def classify(
    classifier: Classifier, count: int, stream: Iterator[Part], out: Path, *, top: int = 5, keep: int = 0
) -> Counts:
    """Write key, shard, and the best `top` classes of each vector to `out`, whole or not at all; give back the counts.

    Memory is that of a block. The columns are class, score (probability), cosine, then class_2, score_2, cosine_2 ...
    Raises UserError if the settings are out of their bounds (see `check`), or if the disk is full.
    """
    check(out, top)
    counts, top = Counts(classifier.names), min(top, len(classifier.names))

    def written(path: Path) -> None:
        with progress_bar("classifying", count) as advance, _Writer(path, out.suffix.lower()) as write:
            for rows, vectors in stream:
                at_once = max(1, NUMBERS // len(classifier.names))
                for start in range(0, len(rows), at_once):
                    some = rows.slice(start, at_once)
                    order, score, cosine = classifier.best(vectors[start : start + at_once], top)
                    counts.add(some, order[:, 0], score[:, 0], keep)
                    write(_table(some, classifier.names, order, score, cosine))
                    advance(len(some))

    write_whole(out, written)
    return counts


def check(out: Path, top: int) -> None:
    """Raise UserError for another ending than .parquet and .csv, and unless a class is wanted."""
    if out.suffix.lower() not in ENDINGS:
        raise UserError(f"--out is {out}, but it should end in one of {', '.join(ENDINGS)}")
    if top < 1:
        raise UserError(f"--top is {top}, but it should be at least 1")


def _table(rows: pa.Table, names: tuple[str, ...], order: Ints, score: Floats, cosine: Floats) -> pa.Table:
    import pyarrow as pa

    made, every = rows.select(["key", "shard"]), pa.array(names)
    for rank in range(order.shape[1]):
        end = f"_{rank + 1}" if rank else ""
        made = made.append_column(f"class{end}", every.take(pa.array(order[:, rank])))
        made = made.append_column(f"score{end}", pa.array(score[:, rank].astype(np.float32)))
        made = made.append_column(f"cosine{end}", pa.array(cosine[:, rank].astype(np.float32)))
    return made


class _Writer:
    """A context that gives a function which appends tables to a file of parquet or CSV."""

    def __init__(self, path: Path, ending: str) -> None:
        self.path, self.ending = path, ending
        self.file: Any = None

    def __enter__(self) -> Callable[[pa.Table], None]:
        return self._write

    def _write(self, table: pa.Table) -> None:
        import pyarrow.parquet as pq
        from pyarrow import csv

        if self.file is None:
            kind = pq.ParquetWriter if self.ending == ".parquet" else csv.CSVWriter
            self.file = kind(str(self.path), table.schema)
        self.file.write_table(table)

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()


def shown(counts: Counts) -> list[dict[str, Any]]:
    """What is shown of the SHOWN largest classes: name, number, share, mean score, examples."""
    total = int(counts.number.sum())
    return [
        {
            "name": counts.names[i],
            "number": f"{counts.number[i]:,}",
            "share": f"{counts.number[i] / total:.1%}",
            "score": f"{counts.score[i] / counts.number[i]:.2f}",
            "examples": counts.examples[i],
        }
        for i in counts.largest()[:SHOWN]
    ]


def print_counts(counts: Counts, console: Console) -> None:
    """Print the SHOWN largest classes, and how many there are beside them."""
    table = Table(box=SIMPLE)
    for name in ("class", "pictures", "share", "mean score"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for row in shown(counts):
        table.add_row(cell(row["name"]), row["number"], row["share"], row["score"])
    console.print(table)
    several = len(counts.largest())
    if several > SHOWN:
        console.print(f"and {several - SHOWN:,} smaller classes")
    if several < len(counts.names):
        console.print(f"{len(counts.names) - several:,} of {len(counts.names):,} classes have no picture")


def model_of(where: Path, *, trust: bool) -> str:
    """The model that the vectors of an index or of a store are of. Raises UserError where nothing says so."""
    if (where / "index.toml").is_file():
        return Gallery.open(where, trust=trust).model
    EmbeddingStore.open(where)
    name = about_store(where).get("model", {}).get("name", "")
    if not name:
        raise UserError(f"{where} does not say which model its vectors are of; name it by --model")
    return str(name)


def main(argv: list[str]) -> int:
    """`vlp classify INDEX|STORE --classes LIST --out FILE`."""
    from vlp.models import release

    def command(
        vectors: Annotated[Positional[Path], arg(metavar="INDEX|STORE")],
        *,
        classes: str,
        out: Path,
        templates: str = "picture",
        top: int = 5,
        html: Path | None = None,
        model: str = "",
        device: str = "cpu",
        random_weights: bool = False,
        trust: bool = False,
    ) -> int:
        """Give every picture of an index, or of a folder of embeddings, its class: that whose texts it is nearest to.

        Args:
            vectors: folder that `vlp index build` or `vlp embed` wrote.
            classes: names between commas (cat,dog); a list of eval/prompts/classes, such as imagenet; or a .txt (a
                class in each line) or .toml file.
            out: a .parquet or .csv file of key, shard, class, score (probability among the classes), cosine, and
                the same of the next best.
            templates: what the names are put into: a set of eval/prompts, such as picture, picture_zh, bare or
                imagenet_80, or a .toml file.
            top: how many classes of each picture are written.
            html: write a page with the surest pictures of each class.
            model: where the model is now, if it was moved, or which it is, if nothing says so.
            device: cpu, cuda, cuda:1 ...
            random_weights: take an open_clip name without a tag, whose weights are random.
            trust: run code that the index's or the model's folder names and that is no part of vlp.
        """
        check(out, top)
        name = model or model_of(vectors, trust=trust)
        loaded = release.load(name, device, random_weights=random_weights, trust=trust)
        count, stream = rows_of(vectors, loaded, trust=trust)
        classifier = Classifier.of(loaded, classes, templates)
        counts = classify(classifier, count, stream, out, top=top, keep=EXAMPLES if html is not None else 0)
        print_counts(counts, Console())
        if html is not None:
            examples = [one for row in shown(counts) for one in row["examples"]]
            uris = pictures(vectors, examples, trust=trust)
            write_whole(html, classify_page(f"{counts.number.sum():,} pictures by class", shown(counts), uris))
        print(f"{out}: {counts.number.sum():,} pictures, {len(counts.names):,} classes")
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp classify"))
