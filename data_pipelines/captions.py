"""Which caption of a sample is said this time, and which samples say the same."""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Mapping
from typing import Any

MOST_TAGS = 4
LARGEST = 1e30  # that a number of a record may be: sums of many stay finite in float32
PLAIN = ("txt", "caption", "text")  # where a caption is that names no language: the .txt, else a field of the .json


def texts_at(record: Mapping[str, Any], path: str) -> list[str]:
    """The texts at `path` of a sample's record: "en" is captions.en, "txt" the .txt file, "tags.zh" a list of tags.

    Several captions of one picture (a list, or those under "all_captions") are all returned, the first one first; so
    are tags, one text each. Empty ones are left out.
    A sample whose captions name no language, as img2dataset writes them, says its .txt (else the caption or text of its
    .json) for "en".
    """
    captions, every = record.get("captions"), record.get("all_captions")
    path = path.removeprefix("captions.")
    if path == "en" and not isinstance(captions, Mapping) and "en" not in record:
        path = plain_field(record)
    value: Any = captions.get(path) if isinstance(captions, Mapping) else None
    if value is not None and isinstance(every, Mapping):
        value = every.get(path) or value
    if value is None:
        value = record
        for step in path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
    values = value if isinstance(value, list) else [value]
    return [v.strip() for v in values if isinstance(v, str) and v.strip()]


def plain_field(record: Mapping[str, Any]) -> str:
    """The first field of PLAIN that has text: where the caption is of a sample whose captions name no language."""
    return next((name for name in PLAIN if texts_at(record, name)), PLAIN[0])


def by_language(record: Mapping[str, Any], language: str = "en") -> dict[str, list[str]]:
    """language -> every caption of a sample in it, the first one first; in `language` where the record names none.

    >>> by_language({"captions": {"zh": "\u732b"}}), by_language({"txt": "a cat"})
    ({'zh': ['\u732b']}, {'en': ['a cat']})
    """
    texts = texts_at(record, language) or texts_at(record, plain_field(record))
    return named_captions(record) or ({language: texts} if texts else {})


def named_captions(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """language -> every caption, of the languages that the record itself names."""
    captions = record.get("captions")
    table = captions if isinstance(captions, Mapping) else {}
    return {code: texts for code in table if (texts := texts_at(record, code))}


def choose_several(
    record: Mapping[str, Any], weights: Mapping[str, float], count: int, rng: random.Random
) -> tuple[str, ...]:
    """`count` captions from different paths, drawn by `weights`; a sample that has fewer says some of them again.

    They come in the order of `weights`. Empty if the sample has none. A path that starts with "tags" says one to four
    of the tags, in random order, joined by commas.
    """
    options = [(path, texts, w) for path, w in weights.items() if w > 0 and (texts := texts_at(record, path))]
    if not options:
        return ()
    left = list(range(len(options)))
    while len(options) - len(left) < count < len(options):
        left.remove(rng.choices(left, [options[i][2] for i in left])[0])
    drawn = [o for i, o in enumerate(options) if i not in left] if count < len(options) else options
    return tuple(_say(*drawn[i % len(drawn)][:2], rng) for i in range(count))


def _say(path: str, texts: list[str], rng: random.Random) -> str:
    if path.split(".", maxsplit=1)[0] == "tags":
        return ", ".join(rng.sample(texts, rng.randint(1, min(MOST_TAGS, len(texts)))))
    return texts[0] if len(texts) == 1 else rng.choice(texts)


def normalised(caption: str) -> str:
    """The caption without differences of case, width, spacing and final stops.

    >>> normalised(" A  Red Ball. ")
    'a red ball'
    """
    return " ".join(unicodedata.normalize("NFKC", caption).casefold().split()).rstrip(".!。！ ")


def concept_id(record: Mapping[str, Any], field: str) -> int:
    """A stable 63-bit number of the concept: of the text in `field`, else of the first caption, normalised."""
    value = record.get(field)
    if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        named = f"{field}={value}"
    else:
        named = f"caption={normalised(first(record))}"
    digest = hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def number_at(record: Mapping[str, Any], path: str) -> float | None:
    """The number at `path` of a sample's record; None if there is none that is finite and at least 0.

    >>> number_at({"scores": {"clip": 0.31}}, "scores.clip"), number_at({"scores": "good"}, "scores")
    (0.31, None)
    """
    value: Any = record
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= LARGEST else None


def is_swapped(key: str, share: float, seed: int) -> bool:
    """Whether the sample called `key` is among the `share` that are given another's captions: the same for ever."""
    digest = hashlib.blake2b(f"{seed} {key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def first(record: Mapping[str, Any]) -> str:
    """The caption that stands for the sample: its .txt, else the first in its record, else ""."""
    captions = record.get("captions")
    names = ["txt", *(captions if isinstance(captions, Mapping) else ()), "caption"]
    return next((texts[0] for name in names if (texts := texts_at(record, name))), "")
