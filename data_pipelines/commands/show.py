"""`vlp shards show`: a contact sheet of a shard set, to see what a model would be trained on."""

from __future__ import annotations

import functools
import io
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from vlp.config.bounds import Count, check
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

INK, QUIET, LINE, PAPER = "#1c1c1e", "#86868b", "#e5e5ea", "#ffffff"
PAD, LEADING = 14, 17  # pixels
LANGUAGES = 8  # that a sheet has lines for
FONTS = (  # families with Chinese first, so that one font serves both languages
    (
        "NotoSansCJK-Regular.ttc",
        "NotoSansSC-Regular.otf",
        "wqy-microhei.ttc",
        "wqy-zenhei.ttc",
        "DroidSansFallbackFull.ttf",
    ),
    ("PingFang.ttc", "STHeiti Light.ttc", "msyh.ttc", "simsun.ttc"),
    ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc"),
)
FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/System/Library/Fonts",
           "/Library/Fonts", "C:/Windows/Fonts")  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """Draw samples of a shard set with their captions as one picture."""

    spec: Positional[str]
    """shards: a folder, glob, brace range or URL of tars, or bundled:emoji/train"""
    out: Positional[Path]
    """the picture to write, such as sheet.png"""
    columns: Count = 8
    """pictures in a row"""
    rows: Count = 6
    """rows of pictures"""
    side: Count = 128
    """width and height of each picture, pixels"""
    seed: int = 0
    """which samples are drawn: another seed shows others"""
    artist: str = ""
    """only samples whose field "artist" says this; empty: all"""


def draw(samples: Sequence[Sample], title: str, sheet: Sheet) -> Image:
    """The samples in reading order, each with its captions, one for each language, and a fine line of its metadata."""
    from PIL import Image as pil
    from PIL import ImageDraw

    languages = list(dict.fromkeys(code for sample in samples for code in sample.captions))[:LANGUAGES]
    shown = [code for code in languages if code.split("-")[0] not in ("zh", "ja", "ko") or chinese_font() is not None]
    lines = 2 + max(0, len(shown) - 1) + 1  # two for the first language, one for each other, one for the metadata
    width, height = sheet.side + 2 * PAD, sheet.side + 2 * PAD + lines * LEADING
    rows = -(-len(samples) // sheet.columns)
    page = pil.new("RGB", (sheet.columns * width + 2 * PAD, rows * height + 4 * PAD + LEADING), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((2 * PAD, PAD), plain(title), font=font(15), fill=INK)
    for position, sample in enumerate(samples):
        left = PAD + position % sheet.columns * width
        top = 2 * PAD + LEADING + position // sheet.columns * height
        if position % sheet.columns == 0:
            pen.line((2 * PAD, top, page.width - 2 * PAD, top), fill=LINE)
        page.paste(_picture(sample, sheet.side), (left + PAD, top + PAD))
        _write(pen, sample, shown, (left + PAD, top + PAD + sheet.side + 6), sheet.side + PAD)
    return page


def _write(pen: ImageDraw, sample: Sample, shown: list[str], at: tuple[int, int], width: int) -> None:
    left, top = at
    first = next((code for code in shown if code in sample.captions), None)
    for line in _wrapped(pen, sample.captions[first] if first else "(no caption that can be drawn)", width, 2):
        pen.text((left, top), line, font=font(12), fill=INK)
        top += LEADING
    for code in shown:
        if code != first and code in sample.captions:
            (line,) = _wrapped(pen, sample.captions[code], width, 1)
            pen.text((left, top), line, font=font(12), fill=INK)
            top += LEADING
    made_by = " · ".join(plain(sample.metadata[name]) for name in ("artist", "subgroup") if sample.metadata.get(name))
    if made_by:
        pen.text((left, top), _wrapped(pen, made_by, width, 1, size=10)[0], font=font(10), fill=QUIET)


def _wrapped(pen: ImageDraw, text: str, width: int, most: int, size: int = 12) -> list[str]:
    """`text` in at most `most` lines of `width` pixels; what does not fit ends in an ellipsis."""
    face = font(size)
    lines: list[str] = []
    rest = plain(text, most * width)  # no letter is narrower than a pixel
    while rest and len(lines) < most:
        ends = range(2, len(rest) + 1)
        fits = 1 + bisect_right(ends, float(width), key=lambda end: pen.textlength(rest[:end], font=face))
        if fits < len(rest) and len(lines) + 1 == most:
            lines.append(rest[: max(1, fits - 1)].rstrip() + "…")
            return lines
        space = rest.rfind(" ", 0, fits + 1)
        cut = fits if fits == len(rest) or space <= 0 else space
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return lines or [""]


def _picture(sample: Sample, side: int) -> Image:
    """The picture inside a square of `side`; small drawings are enlarged without blur beyond a smooth filter."""
    from PIL import Image as pil

    square = pil.new("RGB", (side, side), PAPER)
    try:
        picture = decode(sample.image, Limits())
    except Refused:
        return pil.new("RGB", (side, side), LINE)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, pil.Resampling.LANCZOS)
    square.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


@functools.cache
def font(size: int) -> Any:
    """A font of `size` pixels for both languages if one is installed, else for Latin letters, else PIL's own."""
    from PIL import ImageFont

    path = chinese_font() or _first_of(FONTS[2])
    return ImageFont.truetype(str(path), size) if path else ImageFont.load_default(size)


@functools.cache
def chinese_font() -> Path | None:
    """An installed font with Chinese; None if there is none (then only Latin captions are drawn)."""
    return _first_of(FONTS[0] + FONTS[1])


def _first_of(names: Sequence[str]) -> Path | None:
    folders = [Path(folder).expanduser() for folder in FOLDERS]
    installed = {path.name: path for folder in folders if folder.is_dir() for path in folder.rglob("*.*t[tc]*")}
    installed |= {path.name: path for folder in folders if folder.is_dir() for path in folder.rglob("*.otf")}
    return next((installed[name] for name in names if name in installed), None)


def chosen(sheet: Sheet) -> list[Sample]:
    """Samples of the shards drawn evenly by the seed. Raises UserError if there are none to show."""
    rng = random.Random(sheet.seed)
    wanted = sheet.columns * sheet.rows
    drawn: list[Sample] = []
    samples = read_samples(ShardSet.open(sheet.spec), skip=Ledger())
    fitting = (s for s in samples if sheet.artist in ("", s.metadata.get("artist")))
    for count, sample in enumerate(fitting):
        if count < wanted:
            drawn.append(sample)
        elif (place := rng.randrange(count + 1)) < wanted:
            drawn[place] = sample
    if not drawn:
        raise UserError(
            f'"{sheet.spec}" has no sample to show' + (f' by the artist "{sheet.artist}"' if sheet.artist else "")
        )
    rng.shuffle(drawn)
    return drawn


def main(argv: list[str]) -> int:
    """`vlp shards show SPEC OUT.png`: 0 when the sheet is written. Raises UserError."""
    import tyro

    sheet = tyro.cli(Sheet, args=argv, prog="vlp shards show")
    check(sheet)
    out = sheet.out
    if out.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise UserError(f'"{out}" has no ending of a picture; name it {out.name}.png')
    samples = chosen(sheet)
    file = io.BytesIO()
    draw(samples, f"{sheet.spec}: {len(samples)} samples", sheet).save(
        file, out.suffix[1:].lower().replace("jpg", "jpeg")
    )
    write_whole(out, file.getvalue())
    note = "" if chinese_font() else " (no font with Chinese is installed, so Chinese captions are left out)"
    print(f"{out}: {len(samples)} samples{note}")
    return 0
