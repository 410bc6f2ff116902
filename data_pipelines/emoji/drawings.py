"""Drawings of the emoji artists: which picture in which package shows which emoji."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.emoji import packages
from data_pipelines.emoji.captions import Emoji, plain_hexcode, slug


@dataclass(frozen=True)
class Artist:
    """One hand that drew many emoji, and the licence it gave them under."""

    name: str
    package: str
    license: str
    family: str


ARTISTS = (
    Artist("noto", "@iconify-json/noto", "Apache-2.0", "noto"),
    Artist("noto-v1", "@iconify-json/noto-v1", "Apache-2.0", "noto"),
    Artist("twemoji", "@iconify-json/twemoji", "CC-BY-4.0", "twemoji"),
    Artist("emojione", "@iconify-json/emojione", "CC-BY-4.0", "emojione"),
    Artist("fxemoji", "@iconify-json/fxemoji", "Apache-2.0", "fxemoji"),
    Artist("fluent-flat", "@iconify-json/fluent-emoji-flat", "MIT", "fluent"),
    Artist("fluent-3d", "@lobehub/fluent-emoji-3d", "MIT", "fluent"),
)
VARIANT = re.compile(r"(?<=\w) (one|two|three|four|five|six|seven|eight|nine)$")  # "branch two" is a second branch
OPENMOJI = Artist("openmoji", "@iconify-json/openmoji", "CC-BY-SA-4.0", "openmoji")


@dataclass(frozen=True)
class Drawing:
    """One picture before it is rendered, and everything that is said of it."""

    key: str
    picture: str | bytes | Path  # SVG markup, a bitmap's file, or the path of an SVG or a bitmap
    captions: dict[str, str]  # language -> caption
    tags: dict[str, tuple[str, ...]]  # language -> keywords
    group: str
    subgroup: str
    artist: str
    family: str
    license: str
    hexcode: str = ""  # of the emoji, without variation selectors; "" for what is no emoji
    base: str = ""  # hexcode without the skin tone
    tone: str = ""  # "", or "dark skin tone" and the like


def emoji_drawings(artist: Artist, emoji: dict[str, Emoji], cache: Path) -> Iterator[Drawing]:
    """Every emoji that `artist` drew, in the order of the emoji table."""
    if artist.name == "fluent-3d":
        pictures: dict[str, str | Path] = dict(_bitmaps(packages.folder(artist.package, cache)))
    else:
        pictures = dict(_vectors(artist, emoji, cache))
    for hexcode, meaning in emoji.items():
        if hexcode not in pictures:
            continue
        yield Drawing(
            key=f"{artist.name}-{hexcode}",
            picture=pictures[hexcode],
            captions=meaning.captions,
            tags=meaning.tags,
            group=meaning.group,
            subgroup=meaning.subgroup,
            artist=artist.name,
            family=artist.family,
            license=artist.license,
            hexcode=hexcode,
            base=meaning.base,
            tone=meaning.tone,
        )


def icon_park(cache: Path) -> Iterator[Drawing]:
    """The icons of IconPark, whose Chinese titles and tags were written by their authors."""
    icons = _read(packages.folder("@iconify-json/icon-park", cache) / "package/icons.json")
    about = _read(packages.folder("@icon-park/svg", cache) / "package/icons.json")
    for entry in sorted(about, key=lambda entry: str(entry["name"])):
        name, body = entry["name"], icons["icons"].get(entry["name"])
        if body is None:
            continue
        english = VARIANT.sub("", re.sub(r"^a (?=\w{3})", "", name.replace("-", " ")))
        yield Drawing(
            key=f"icon-park-{name}",
            picture=_svg(icons, body),
            captions={"en": english, "zh": entry["title"].strip().rstrip("0123456789 ") or entry["title"]},
            tags={"en": (entry["category"].lower(),), "zh": tuple(dict.fromkeys(t.strip() for t in entry["tag"] if t))},
            group="icons",
            subgroup=entry["category"].lower(),
            artist="icon-park",
            family="icon-park",
            license="Apache-2.0",
        )


def _vectors(artist: Artist, emoji: dict[str, Emoji], cache: Path) -> Iterator[tuple[str, str]]:
    root = packages.folder(artist.package, cache) / "package"
    icons, chars = _read(root / "icons.json"), _read(root / "chars.json")
    if chars:  # the package says which character each name is
        names = {plain_hexcode(code): name for code, name in chars.items()}
    else:
        lookup = _names(emoji, cache)
        names = {}
        for name in icons["icons"]:
            hexcode = lookup.get(name) or lookup.get(_squash(name))
            if hexcode is not None:
                names.setdefault(hexcode, name)
    for hexcode, name in names.items():
        if hexcode in emoji and name in icons["icons"]:
            yield hexcode, _svg(icons, icons["icons"][name])


def _bitmaps(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted((root / "package/assets").glob("*.webp")):
        yield plain_hexcode(path.stem), path


def _names(emoji: dict[str, Emoji], cache: Path) -> dict[str, str]:
    """Names that artists gave their files -> hexcode: of newer packages, of Unicode, and the same run together."""
    hexcodes: dict[str, str] = {}
    for package in ("@iconify-json/noto", "@iconify-json/twemoji"):
        root = packages.folder(package, cache) / "package"
        own = {name: plain_hexcode(code) for code, name in _read(root / "chars.json").items()}
        aliases = _read(root / "icons.json").get("aliases", {})
        own |= {alias: own[entry["parent"]] for alias, entry in aliases.items() if entry["parent"] in own}
        for name, hexcode in own.items():
            hexcodes.setdefault(name, hexcode)
    for hexcode, meaning in emoji.items():
        hexcodes.setdefault(slug(meaning.captions["en"]), hexcode)
    unicode_names = _read(packages.folder("emojibase-data", cache) / "package/meta/unicode-names.json")
    for code, name in unicode_names.items():
        hexcodes.setdefault(slug(name), plain_hexcode(code))
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    hexcodes |= {f"digit-{word}": f"003{value}-20e3" for value, word in enumerate(digits)}
    flags = {name: hexcode for name, hexcode in hexcodes.items() if name.startswith("flag-")}
    hexcodes |= {name.replace("flag-", "flag-for-", 1): hexcode for name, hexcode in flags.items()}
    hexcodes |= {name.replace("flag-", "flag-for-flag-", 1): hexcode for name, hexcode in flags.items()}
    kept = {name: hexcode for name, hexcode in hexcodes.items() if hexcode in emoji}
    return {_squash(name): hexcode for name, hexcode in kept.items()} | kept


def _squash(name: str) -> str:
    return name.replace("-", "")


def _svg(icons: dict[str, Any], icon: dict[str, Any]) -> str:
    left, top = icon.get("left", icons.get("left", 0)), icon.get("top", icons.get("top", 0))
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
