"""`vlp search INDEX "text"` or `--image FILE`: the nearest pictures, as a table, a page or a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from eval.search.answer import Answer, ask_picture, ask_text
from eval.search.gallery import Gallery, Hit
from eval.search.page import search_page
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import cell

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlp.models.release import Release


SHEETS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""How a sheet is written, by the end of its name."""
COLUMNS = 6  # languages that a table shows


def print_answer(answer: Answer, console: Console, most: int = 1000) -> None:
    """Print a table of the first `most` hits, one column a language of their captions."""
    languages = list(dict.fromkeys(language for hit in answer.hits for language in hit.captions))[:COLUMNS]
    rows = Table(title=cell(answer.text or answer.note), title_justify="left", title_style="bold", box=SIMPLE)
    rows.add_column("#", justify="right")
    rows.add_column("score", justify="right")
    for language in languages:
        rows.add_column(cell(language, 20))
    rows.add_column("key", style="dim", overflow="fold")
    for rank, hit in enumerate(answer.hits[:most], 1):
        captions = (cell(hit.captions.get(language, "")) for language in languages)
        rows.add_row(str(rank), f"{hit.score:.3f}", *captions, cell(hit.key))
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


def check_question(text: str, image: Path | None, k: int, grid: Path | None) -> None:
    """Raise UserError unless either a text or a picture that exists is asked by, for some matches, on a known sheet."""
    if bool(text.strip()) == (image is not None):
        raise UserError('ask by a text or by --image FILE, one of them: vlp search INDEX "a red apple"')
    if image is not None and not image.is_file():
        raise UserError(f"there is no picture {image}; give the path of a PNG, JPEG or WebP file")
    if k < 1:
        raise UserError(f"-k is {k}, but it should be at least 1")
    if grid is not None and grid.suffix.lower() not in SHEETS:
        raise UserError(f"--grid is {grid}, but it should end in one of {', '.join(SHEETS)}")


def _answer(gallery: Gallery, release: Release, question: str | Path, k: int, *, where: str) -> Answer:
    if isinstance(question, Path):
        return ask_picture(gallery, release, question.read_bytes(), k, note=str(question), where=where)
    return ask_text(gallery, release, question, k, where=where)


def _write(answer: Answer, html: Path | None, grid: Path | None) -> None:
    """Write the page and the sheet of an answer, those that are asked for."""
    if html is not None:
        write_whole(html, search_page([answer], answer.text or answer.note))
    if grid is not None:
        made = sheet(answer.hits)
        write_whole(grid, lambda path: made.save(path, format=SHEETS[grid.suffix.lower()]))


def main(argv: list[str]) -> int:
    """`vlp search INDEX "text" | --image FILE`."""
    from vlp.models import release

    def command(
        index: Annotated[Positional[Path], arg(metavar="INDEX")],
        text: Annotated[Positional[str], arg(metavar="TEXT")] = "",
        *,
        image: Path | None = None,
        where: str = "",
        columns: bool = False,
        k: Annotated[int, arg(aliases=["-k"])] = 10,
        html: Path | None = None,
        grid: Path | None = None,
        model: str = "",
        device: str = "cpu",
        random_weights: bool = False,
        trust: bool = False,
    ) -> int:
        """Find the pictures of an index that are nearest to a text, in any language the model knows, or to a picture.

        Args:
            index: folder that `vlp index build` wrote.
            text: what to look for, such as "a red apple".
            image: picture to look for, instead of a text.
            where: what the matches fulfil, such as "style = 'flat' AND width > 100", in SQL over the columns.
            columns: show the columns that --where may name, and ask nothing.
            k: how many matches to show.
            html: write a page with the matches, such as matches.html.
            grid: write a sheet of the matches, such as matches.png.
            model: where the index's model is now, if it was moved.
            device: cpu, cuda, cuda:1 ...
            random_weights: take an open_clip name without a tag, whose weights are random.
            trust: run code that the model's folder names and that is no part of vlp.
        """
        if columns:
            print_columns(Gallery.open(index, trust=trust), Console())
            return 0
        check_question(text, image, k, grid)
        gallery = Gallery.open(index, trust=trust)
        if where:
            gallery.filters.ids(where)  # what is wrong with it is said before a model is loaded
        loaded = release.load(model or gallery.model, device, random_weights=random_weights, trust=trust)
        answer = _answer(gallery, loaded, image or text, k, where=where)
        print_answer(answer, Console())
        _write(answer, html, grid)
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp search"))
