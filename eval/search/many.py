"""Many queries at once, `vlp search INDEX --queries FILE`: checked, then answered some at a time, as lines of JSON."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from eval.progress_bar import progress_bar
from eval.search.asked import Query, of_json, vectors_of
from eval.search.gallery import Gallery, Hit
from vlp.errors import UserError
from vlp.files import full_disk, write_whole

if TYPE_CHECKING:
    from vlp.models.release import Release

STANDARD = Path("-")  # standard input, or standard output
QUERIES_AT_ONCE = 4096
HITS_AT_ONCE = 65_536
MOST_LINE = 1_000_000  # bytes
Numbered = tuple[int, Query]


@dataclass(frozen=True)
class Lines:
    """The lines of a file that can be read twice: texts, or, where the first one begins with {, objects of JSON."""

    file: IO[bytes]
    name: str
    base: Query
    """what a line leaves out"""

    def queries(self) -> Iterator[Numbered]:
        """(number of the line, query); blank lines are left out. Raises UserError, which names the line."""
        self.file.seek(0)
        number, objects = 0, None
        while line := self.file.readline(MOST_LINE + 1):
            number += 1
            with self.at(number):
                if len(line) > MOST_LINE:
                    raise UserError(f"it has more than {MOST_LINE:,} bytes; write one query on each line")
                text = _text(line)
                if not text:
                    continue
                objects = text.startswith("{") if objects is None else objects
                if not objects and text.startswith("{") and text.endswith("}"):
                    raise UserError("it looks like JSON, but the first line is a text; write all lines in one way")
                yield number, (of_json(_json(text), self.base) if objects else replace(self.base, text=text).checked())

    @contextmanager
    def at(self, number: int) -> Iterator[None]:
        """A context whose UserErrors name a line."""
        try:
            yield
        except UserError as error:
            raise UserError(f"line {number:,} of {self.name}: {error}") from None

    def count(self) -> int:
        """How many queries there are. Raises UserError for the first that cannot be asked, or if there is none."""
        count = sum(1 for _ in self.queries())
        if not count:
            raise UserError(f"{self.name} has no queries; write one on each line: a text, or an object of JSON")
        return count

    def blocks(self) -> Iterator[list[Numbered]]:
        """As many queries at a time as fit memory with their hits."""
        some: list[Numbered] = []
        hits = 0
        for number, query in self.queries():
            if some and (len(some) == QUERIES_AT_ONCE or hits + query.k > HITS_AT_ONCE):
                yield some
                some, hits = [], 0
            some.append((number, query))
            hits += query.k
        if some:
            yield some


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UserError("it is not text in UTF-8; write it so") from None


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"it is not JSON ({error}), as the first line is; write one object on each line") from None


@contextmanager
def lines_of(source: Path, base: Query) -> Iterator[Lines]:
    """The lines of a file, or of standard input, which is kept on disk meanwhile. Raises UserError if it is no file."""
    if source == STANDARD:
        with tempfile.TemporaryFile() as kept, full_disk(Path(tempfile.gettempdir())):
            while block := sys.stdin.buffer.read(1 << 20):
                kept.write(block)
            yield Lines(kept, "the standard input", base)
    elif source.is_file():
        with source.open("rb") as file:
            yield Lines(file, str(source), base)
    else:
        raise UserError(f"--queries is {source}, but there is no such file; give one with a query on each line, or -")


def write_answers(gallery: Gallery, release: Release, source: Path, out: Path, *, base: Query, **how: Any) -> int:
    """Write the answer to each query of `source` to `out` as a line of JSON; give back how many there were.

    base: what lines leave out, K for one. how: fold and rerank, as Gallery.search has them. All lines are checked
    before the first is answered; memory is that of QUERIES_AT_ONCE of them. `out` is written whole or not at all,
    standard output line by line. Raises UserError for a line that cannot be asked, which it names.
    """
    gallery.check_model(release)
    with lines_of(source, base) as lines:
        total = lines.count()

        def written(file: IO[str]) -> None:
            with progress_bar("searching", total, unit="queries") as advance:
                for block in lines.blocks():
                    file.writelines(
                        f"{json.dumps(row, ensure_ascii=False)}\n"
                        for row in _answers(gallery, release, lines, block, **how)
                    )
                    advance(len(block))

        if out == STANDARD:
            with _until_closed():
                written(sys.stdout)
                sys.stdout.flush()
        else:
            write_whole(out, lambda path: _to(path, written))
    return total


def write_answer(query: Query, hits: Sequence[Hit], out: Path) -> None:
    """Write the answer to one query as a line of JSON, to a file or to standard output."""
    line = json.dumps({"query": of_query(query), "hits": [of_hit(hit) for hit in hits]}, ensure_ascii=False) + "\n"
    if out == STANDARD:
        with _until_closed():
            sys.stdout.write(line)
            sys.stdout.flush()
    else:
        write_whole(out, line)


def _to(path: Path, written: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        written(file)


@contextmanager
def _until_closed() -> Iterator[None]:
    """A context that ends where nobody reads standard output any more, as after `| head`."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python would still flush at its end


def _answers(
    gallery: Gallery, release: Release, lines: Lines, block: list[Numbered], **how: Any
) -> Iterator[dict[str, Any]]:
    """What is written of each query of a block, in order. Queries with the same K and filter are one search."""
    vectors = []
    for (number, _), vector in zip(block, vectors_of(release, [query for _, query in block]), strict=True):
        with lines.at(number):
            if isinstance(vector, UserError):
                raise vector
            vectors.append(vector)
    hits: list[list[Hit]] = [[] for _ in block]
    together: dict[tuple[int, str], list[int]] = {}
    for i, (_, query) in enumerate(block):
        together.setdefault((query.k, query.where), []).append(i)
    for (k, where), same in together.items():
        with lines.at(block[same[0]][0]):
            asked = np.stack([vectors[i] for i in same])
            some = gallery.search(release, asked, k, where=where, pictures=False, **how)
        for i, one in zip(same, some, strict=True):
            hits[i] = one
    for (number, query), mine in zip(block, hits, strict=True):
        yield {"line": number, "query": of_query(query), "hits": [of_hit(hit) for hit in mine]}


def of_query(query: Query) -> dict[str, Any]:
    """What a query asks for: its fields that are not as usual."""
    asked = {field.name: getattr(query, field.name) for field in fields(query)}
    usual = {field.name: field.default for field in fields(query)}
    return {name: _plain(value) for name, value in asked.items() if value != usual[name] or name == "k"}


def _plain(value: Any) -> Any:
    return (
        [_plain(one) for one in value] if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    )


def of_hit(hit: Hit) -> dict[str, Any]:
    """What is written of a match; `alike` are the keys of those that it stands for."""
    row = {"score": round(hit.score, 6), "key": hit.key, "captions": dict(hit.captions), "shard": hit.shard}
    return {**row, "alike": [one.key for one in hit.alike]} if hit.alike else row
