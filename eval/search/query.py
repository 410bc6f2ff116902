"""`vlp search INDEX "text"`, `--image FILE`, or several of them: the nearest pictures, as a table, page or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional, arg

from eval.search.answer import Answer, ask
from eval.search.asked import Query
from eval.search.gallery import Gallery, Hit
from eval.search.many import STANDARD, write_answer, write_answers
from eval.search.page import search_page
from eval.search.refine import FOLD
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import cell, plain

if TYPE_CHECKING:
    from PIL.Image import Image


SHEETS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""How a sheet is written, by the end of its name."""
COLUMNS = 6  # languages that a table shows


def print_answer(answer: Answer, console: Console, most: int = 1000) -> None:
    """Print a table of the first `most` hits, one column a language of their captions."""
    languages = list(dict.fromkeys(language for hit in answer.hits for language in hit.captions))[:COLUMNS]
    title = ", ".join(filter(None, (answer.text, answer.note)))
    rows = Table(title=cell(title), title_justify="left", title_style="bold", box=SIMPLE)
    rows.add_column("#", justify="right")
    rows.add_column("score", justify="right")
    for language in languages:
        rows.add_column(cell(language, 20))
    rows.add_column("key", style="dim", overflow="fold")
    for rank, hit in enumerate(answer.hits[:most], 1):
        captions = (cell(hit.captions.get(language, "")) for language in languages)
        key = f"{plain(hit.key)} (+{len(hit.alike):,} alike)" if hit.alike else hit.key
        rows.add_row(str(rank), f"{hit.score:.3f}", *captions, cell(key))
    console.print(rows)


def print_columns(gallery: Gallery, console: Console) -> None:
    """Print what the rows of a gallery can be filtered by. Raises UserError if it is nothing."""
    rows = Table(box=SIMPLE)
    for title in ("column", "type", "values, such as"):
        rows.add_column(title, overflow="fold")
    examples = gallery.filters.examples()
    for name, kind in gallery.filters.columns().items():
        rows.add_row(cell(name), kind, cell(", ".join(examples[name])))
    console.print(rows)


def sheet(hits: Sequence[Hit], *, side: int = 128, columns: int = 5, gap: int = 8) -> Image:
    """The pictures of the hits on one white sheet, best first, from left to right and from top to bottom."""
    from PIL import Image as pil

    across = min(columns, max(1, len(hits)))
    down = -(-len(hits) // across)
    paper = pil.new("RGB", (across * (side + gap) + gap, down * (side + gap) + gap), "white")
    for place, hit in enumerate(hits):
        picture = hit.picture()
        scale = side / max(picture.size)
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
        left = gap + place % across * (side + gap) + (side - picture.width) // 2
        top = gap + place // across * (side + gap) + (side - picture.height) // 2
        paper.paste(picture, (left, top))
    return paper


@dataclass(frozen=True)
class Written:
    """Where matches are written to, beside the table."""

    html: Path | None = None
    """write a page with the matches, such as matches.html"""
    grid: Path | None = None
    """write a sheet of the matches, such as matches.png"""
    json: Path | None = None
    """write the matches as JSON, a line for each query, to a file or - (standard output, without the table)"""

    def check(self, queries: Path | None) -> None:
        """Raise UserError for a sheet of an unknown kind, and for pages of many queries."""
        if self.grid is not None and self.grid.suffix.lower() not in SHEETS:
            raise UserError(f"--grid is {self.grid}, but it should end in one of {', '.join(SHEETS)}")
        if queries is not None and (self.html is not None or self.grid is not None):
            raise UserError("--queries has many answers, and --html and --grid show one: write them by --json OUT")


@dataclass(frozen=True)
class Ranking:
    """What is done with the matches of the index."""

    fold: bool = False
    """show near-identical matches as one, which says how many it stands for"""
    fold_at: float = FOLD
    """cosine of their vectors from which on matches are near-identical"""
    rerank: int | None = None
    """best matches of the index that are scored again exactly; 0: none; left out: K where its scores are estimates"""

    @property
    def how(self) -> dict[str, Any]:
        """As Gallery.search takes it."""
        return {"fold": self.fold_at if self.fold else None, "rerank": self.rerank}


def main(argv: list[str]) -> int:
    """`vlp search INDEX "text" | --image FILE | --queries FILE`."""
    from vlp.models import release

    def command(
        index: Annotated[Positional[Path], arg(metavar="INDEX")],
        query: OmitArgPrefixes[Query],
        written: OmitArgPrefixes[Written],
        ranking: OmitArgPrefixes[Ranking],
        *,
        queries: Path | None = None,
        columns: bool = False,
        model: str = "",
        device: str = "cpu",
        random_weights: bool = False,
        trust: bool = False,
    ) -> int:
        """Find the pictures of an index that are nearest to a text, in any language the model knows, or to a picture.

        A question of several parts is the sum of their unit vectors, each with its weight.

        Args:
            index: folder that `vlp index build` wrote.
            query: what to look for.
            written: where matches are written to.
            queries: a file with a query on each line, or - (standard input): a text, or a JSON object with text, image
                (a path), more, less ..., where, k; the flags are for lines that do not say otherwise.
            columns: show the columns that --where may name, and ask nothing.
            ranking: what is done with the matches of the index.
            model: where the index's model is now, if it was moved.
            device: cpu, cuda, cuda:1 ...
            random_weights: take an open_clip name without a tag, whose weights are random.
            trust: run code that the model's folder names and that is no part of vlp.
        """
        if columns:
            print_columns(Gallery.open(index, trust=trust), Console())
            return 0
        written.check(queries)
        check_question(query, queries)
        gallery = Gallery.open(index, trust=trust)
        if query.where:
            gallery.filters.ids(query.where)  # what is wrong with it is said before a model is loaded
        loaded = release.load(model or gallery.model, device, random_weights=random_weights, trust=trust)
        if queries is not None:
            write_answers(gallery, loaded, queries, written.json or STANDARD, base=query, **ranking.how)
        else:
            show(query, ask(gallery, loaded, query, **ranking.how), written)
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp search"))


def check_question(query: Query, queries: Path | None) -> None:
    """Raise UserError unless there is a question, or a file of them and none beside it."""
    if queries is None:
        if not query.parts:
            raise UserError('ask by a text, by --image FILE, or by --queries FILE: vlp search INDEX "a red apple"')
        query.checked()
    elif query.text or query.image is not None:
        raise UserError("--queries has the texts and pictures to look for: leave TEXT and --image out")
    elif query.k < 1:
        raise UserError(f"-k is {query.k}, but it should be at least 1")


def show(query: Query, answer: Answer, written: Written) -> None:
    """Print the answer, and write it to where it is wanted."""
    if written.json is not None:
        write_answer(query, answer.hits, written.json)
    if written.json != STANDARD:
        print_answer(answer, Console())
    if written.html is not None:
        write_whole(written.html, search_page([answer], answer.text or answer.note))
    if written.grid is not None:
        made, kind = sheet(answer.hits), SHEETS[written.grid.suffix.lower()]
        write_whole(written.grid, lambda path: made.save(path, format=kind))
