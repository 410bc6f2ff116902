"""Whatever a text holds, what is shown of it is one line of bounded length that a terminal does not obey."""

from __future__ import annotations

import io
import unicodedata

from hypothesis import given
from hypothesis import strategies as some
from rich.console import Console
from rich.table import Table

from vlp.legible import cell, plain, printable
from vlp.page import render

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\x00\x08\r"
ANY = some.text(some.characters(codec=None), max_size=300)


@given(ANY, some.integers(1, 120))
def test_one_line_of_bounded_length_that_can_be_written(text: str, most: int) -> None:
    line = plain(text, most)
    assert len(line) <= most
    assert "\n" not in line
    assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cs")]
    line.encode()


def test_what_is_legible_stays_as_it_is() -> None:
    for text in ("a red ball", "红色的圆", "👩‍🚀 and 🏳️‍🌈", "نیم‌فاصله", "[red] {x} <b>"):
        assert plain(text) == text


def test_what_turns_letters_round_goes_and_lines_stay() -> None:
    assert printable("one\ntwo \u202e\u2066three") == "one\ntwo three"
    assert printable(ESCAPES) == "]0;title[2J31m"
    assert plain("half \ud83d") == "half \ufffd"


def test_a_hundred_megabytes_cost_nothing() -> None:
    assert plain("x" * 100_000_000) == "x" * 199 + "…"


def test_markup_is_shown_and_not_obeyed() -> None:
    table = Table("caption")
    table.add_row(cell("[/red] [link=file:///]x[/link]"))
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    assert "[/red] [link=file:///]x[/link]" in out.getvalue()


def test_pages_hold_no_control_characters(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.html").write_text("{{ text }}|{{ safe|safe }}")
    page = render(tmp_path / "t.html", text=f"<b>{ESCAPES}\u202e", safe=f"<i>{ESCAPES}")
    assert page == "&lt;b&gt;]0;title[2J31m|<i>" + ESCAPES.replace("\r", "\r")
