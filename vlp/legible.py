"""Text that somebody else wrote, made fit for a terminal, a page and a picture.

Captions, keys, names of files and fields come from outside: they may hold what clears a screen, what turns the order of
letters round, markup, line breaks, or a hundred thousand characters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

MOST = 200
"""Characters of a text that are shown where a reader wants to know what it is about"""
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed: terminals obey them
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # change the direction, or take no room
    "\U000e0000-\U000e007f]"  # letters that are not shown
)
HALVES = re.compile("[\ud800-\udfff]")  # of surrogate pairs, which no encoding writes


def printable(text: str) -> str:
    """`text` without characters that do something instead of being shown; its lines stay.

    >>> printable("a \\x1b[31mred\\x1b[0m ball, \\u202ellab")
    'a [31mred[0m ball, llab'
    """
    return HALVES.sub("\ufffd", UNSEEN.sub("", text))


def plain(text: object, most: int = MOST) -> str:
    """What is to be seen of `text` on one line, at most `most` characters, the last an ellipsis if some are left out.

    >>> plain("two\\n\\n lines\\0"), plain("x" * 1000, 4)
    ('two lines', 'xxx…')
    """
    whole = str(text)
    if len(whole) <= most and whole.isprintable() and "  " not in whole and whole.strip() == whole:
        return whole  # most captions: nothing is unseen, no white space but single spaces
    seen = " ".join(printable(whole[: 4 * most]).split())
    if len(seen) <= most and len(whole) <= 4 * most:
        return seen
    return seen[: most - 1].rstrip() + "…"


def cell(text: object, most: int = MOST) -> Text:
    """The same for rich, which reads "[red]" in a string as markup and fails on "[/red]"."""
    from rich.text import Text

    return Text(plain(text, most))
