"""What emoji are called: labels, tags and groups in English and Chinese, joined on the hexcode."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.emoji import packages

LANGUAGES = ("en", "zh")
TONES = {1: "light", 2: "medium-light", 3: "medium", 4: "medium-dark", 5: "dark"}


@dataclass(frozen=True)
class Emoji:
    """One emoji, whoever draws it."""

    base: str  # hexcode without the skin tone
    tone: str  # "" or the name of the skin tone(s)
    captions: dict[str, str]
    tags: dict[str, tuple[str, ...]]
    group: str
    subgroup: str


def plain_hexcode(code: str) -> str:
    """`code` in lower case without variation selectors, the form on which packages agree."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def slug(text: str) -> str:
    """`text` as the names of icons are written: ascii, lower case, hyphens."""
    text = re.sub("[’'“”]", "", text.lower().replace("&", "and"))
    ascii_only = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")


def caption_key(text: str) -> str:
    """The form in which two captions count as the same: case, width, punctuation and articles do not matter.

    >>> caption_key("The  Face: with tears!")
    'face with tears'
    """
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).split()
    while len(words) > 1 and words[0] in ("a", "an", "the"):
        words = words[1:]
    return " ".join(words)


def read_emoji(cache: Path) -> dict[str, Emoji]:
    """Every emoji by plain hexcode, skin tones included, in the order of the table."""
    root = packages.folder("emojibase-data", cache) / "package"
    tables = {code: {e["hexcode"]: e for e in _read(root / code / "data.json")} for code in LANGUAGES}
    messages = _read(root / "en/messages.json")
    groups = {entry["order"]: entry["message"] for entry in messages["groups"]}
    subgroups = {entry["order"]: entry["message"] for entry in messages["subgroups"]}
    emoji = {}
    for hexcode, entry in tables["en"].items():
        if "group" not in entry:  # regional indicators, which nobody sends alone
            continue
        versions = {code: table[hexcode] for code, table in tables.items() if hexcode in table}
        group, subgroup = groups[entry["group"]], subgroups[entry["subgroup"]]
        base = plain_hexcode(hexcode)
        tags = {code: tuple(version.get("tags", ())) for code, version in versions.items()}
        labels = {code: version["label"] for code, version in versions.items()}
        emoji[base] = Emoji(base, "", labels, tags, group, subgroup)
        for position, skin in enumerate(entry.get("skins", ())):
            labels = {code: version["skins"][position]["label"] for code, version in versions.items()}
            tones = skin["tone"] if isinstance(skin["tone"], list) else [skin["tone"]]
            tone = ", ".join(f"{TONES[value]} skin tone" for value in tones)
            emoji[plain_hexcode(skin["hexcode"])] = Emoji(base, tone, labels, tags, group, subgroup)
    return emoji


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
