"""Names of languages and units: the examples of their docstrings."""

from __future__ import annotations

import doctest

from eval import languages
from eval.report import units


def test_docstring_examples() -> None:
    assert doctest.testmod(languages).failed == 0
    assert doctest.testmod(units).failed == 0


def test_a_path_without_a_language_is_its_own_name() -> None:
    assert languages.in_words("txt") == "txt"
    assert languages.in_words("notes.by.ann") == "notes.by.ann"
    assert languages.in_words("notes.de") == "notes, German"
