"""Scripts of captions, by the Unicode names of their letters."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from data_pipelines.filters import Filter, texts_of, with_captions
from data_pipelines.sample import Sample
from vlp.config.bounds import Share
from vlp.config.components import did_you_mean
from vlp.errors import UserError

SCRIPTS = (
    *("latin", "han", "kana", "hangul", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "bengali"),
    *("tamil", "telugu", "thai", "georgian", "armenian", "ethiopic", "khmer", "myanmar", "lao", "sinhala"),
)
_OTHER_NAMES = {"cjk": "han", "hiragana": "kana", "katakana": "kana", "katakana-hiragana": "kana"}


@dataclass(frozen=True)
class ScriptFilter(Filter):
    """In which scripts captions may be written."""

    scripts: tuple[str, ...] = ()
    """scripts that captions may be written in, such as latin, or han kana for Japanese; none named: any"""
    script_share: Share = 0.5
    """least share of a caption's letters that are of the named scripts; captions with less are left out"""

    def __post_init__(self) -> None:
        """Raises UserError for a script that is not known."""
        for name in self.scripts:
            if name not in SCRIPTS:
                near = did_you_mean(name, list(SCRIPTS))
                raise UserError(f'no script is called "{name}"{near}; known: {", ".join(SCRIPTS)}')

    def choose(self, sample: Sample) -> Sample | str:
        """The sample with those of its captions alone that are written in the scripts."""
        if not self.scripts or not sample.text.strip():
            return sample
        fit = {
            code: [text for text in texts_of(sample, code) if share(text, self.scripts) >= self.script_share]
            for code in sample.captions
        }
        chosen = with_captions(sample, fit)
        return chosen if chosen.text.strip() else "other script"


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
