"""The contact sheet: every chosen sample is on it, with and without a font for Chinese."""

from __future__ import annotations

import io
import random
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data_pipelines.commands import show as sheets
from data_pipelines.commands.build import build
from data_pipelines.commands.show import PAD, Sheet, _wrapped, draw
from data_pipelines.sample import Sample
from data_pipelines.sources.folder import Folder
from vlp.errors import UserError


def sample(number: int, colour: tuple[int, int, int], **captions: str) -> Sample:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(file, "PNG")
    return Sample(f"s{number}", file.getvalue(), "png", captions, {"artist": "me"})


def centres(page: Image.Image, sheet: Sheet, count: int) -> list[tuple[int, ...]]:
    """The colour in the middle of each picture of the sheet."""
    pixels = np.asarray(page)
    rows = -(-count // sheet.columns)
    height = (page.height - 4 * PAD - sheets.LEADING) // rows
    out = []
    for i in range(count):
        x = 2 * PAD + i % sheet.columns * (sheet.side + 2 * PAD) + sheet.side // 2
        y = 3 * PAD + sheets.LEADING + i // sheet.columns * height + sheet.side // 2
        out.append(tuple(pixels[y, x].tolist()))
    return out


@pytest.mark.parametrize("font", [True, False])
def test_each_picture_has_its_place(font: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not font:
        monkeypatch.setattr(sheets, "chinese_font", lambda: None)
    sheet = Sheet("", Path(), columns=3, rows=2, side=40)
    colours = [(40 * i, 10, 200) for i in range(5)]
    samples = [sample(i, c, en=f"a thing called {i} " * 9, zh="一个东西") for i, c in enumerate(colours)]
    assert centres(draw(samples, "title", sheet), sheet, 5) == colours


def test_a_sample_that_only_speaks_chinese_is_still_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "chinese_font", lambda: None)
    sheet = Sheet("", Path(), columns=1, rows=1, side=40)
    assert centres(draw([sample(0, (9, 9, 9), zh="猫")], "t", sheet), sheet, 1) == [(9, 9, 9)]


@pytest.mark.parametrize("text", ["word", "many words " * 20, "x" * 300, "", "中" * 80])
def test_lines_fit_their_width(text: str) -> None:
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lines = _wrapped(pen, text, 100, 2)
    assert 1 <= len(lines) <= 2
    assert all(pen.textlength(line, font=sheets.font(12)) <= 108 for line in lines)


def test_the_command_writes_what_the_seed_says(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(9):
        Image.new("RGB", (8, 8), (i * 25, 0, 0)).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(f"red {i}")
    build(Folder(pictures), tmp_path / "shards")
    spec, small = str(tmp_path / "shards"), ["--columns", "2", "--rows", "2", "--side", "16"]
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert sheets.main([spec, str(tmp_path / f"{name}.png"), *small, "--seed", seed]) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c
    with pytest.raises(UserError, match='no sample to show by the artist "nobody"'):
        sheets.main([spec, str(tmp_path / "d.png"), "--artist", "nobody"])
    with pytest.raises(UserError, match="has no ending of a picture"):
        sheets.main([spec, str(tmp_path / "d.txt")])


def test_a_caption_of_100_000_letters_is_drawn_at_once() -> None:
    sheet = Sheet("", Path(), columns=1, rows=1, side=40)
    captions = {"en": "a" * 100_000, "de": "many words " * 10_000, **{f"x{i}": "\x1b[31m" for i in range(1000)}}
    began = time.perf_counter()
    page = draw([sample(0, (9, 9, 9), **captions)], "title", sheet)
    assert time.perf_counter() - began < 2
    assert page.height < 400


def test_lines_are_as_long_as_they_can_be() -> None:
    pen, face = ImageDraw.Draw(Image.new("RGB", (1, 1))), sheets.font(12)
    text = "".join(random.Random(0).choices("abcdefghij", k=80))
    fits = max(end for end in range(1, 81) if pen.textlength(text[:end], font=face) <= 100)
    assert _wrapped(pen, text, 100, 2)[0] == text[:fits]
