"""Languages of captions in words for people."""

from __future__ import annotations

NAMES = {
    **{
        "ar": "Arabic",
        "bg": "Bulgarian",
        "bn": "Bengali",
        "cs": "Czech",
        "da": "Danish",
        "de": "German",
        "el": "Greek",
    },
    **{"en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fil": "Filipino"},
    **{"fr": "French", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian"},
    **{"it": "Italian", "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "mi": "Maori", "ms": "Malay"},
    **{"nb": "Norwegian", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "quz": "Quechua"},
    **{"ro": "Romanian", "ru": "Russian", "sv": "Swedish", "sw": "Swahili", "te": "Telugu", "th": "Thai"},
    **{"tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese"},
}


def in_words(path: str) -> str:
    """The name of a language, and of a field in a language; any other path is its own name.

    >>> in_words("zh"), in_words("tags.en"), in_words("notes.long")
    ('Chinese', 'tags, English', 'notes.long')
    """
    field, _, language = path.rpartition(".")
    name = NAMES.get(language)
    if name is None:
        return path
    return f"{field}, {name}" if field else name
