"""In which script a text is written, told from the Unicode names of its letters."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection
from functools import lru_cache

SCRIPTS = (
    *("latin", "han", "kana", "hangul", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "bengali"),
    *("tamil", "telugu", "thai", "georgian", "armenian", "ethiopic", "khmer", "myanmar", "lao", "sinhala"),
)
_OTHER_NAMES = {"cjk": "han", "hiragana": "kana", "katakana": "kana", "katakana-hiragana": "kana"}


@lru_cache(maxsize=1 << 16)
def script_of(letter: str) -> str:
    """The script of one character, the first word of its Unicode name; "" if it is no letter.

    >>> script_of("a"), script_of("猫"), script_of("ね"), script_of("7")
    ('latin', 'han', 'kana', '')
    """
    if not unicodedata.category(letter).startswith("L"):
        return ""
    word = unicodedata.name(letter, "").partition(" ")[0].lower()
    return _OTHER_NAMES.get(word, word)


def share(text: str, scripts: Collection[str]) -> float:
    """The share of the letters of `text` that are of `scripts`, 0 to 1; 0 if it has no letters.

    >>> share("a red 猫", {"latin"})
    0.8
    """
    letters = Counter(map(script_of, unicodedata.normalize("NFKC", text)))
    del letters[""]
    return sum(letters[name] for name in scripts) / letters.total() if letters else 0.0
