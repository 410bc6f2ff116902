"""The part of the Open Clip Art package whose pictures have a usable English caption."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.emoji import packages
from data_pipelines.emoji.captions import Emoji, caption_key
from data_pipelines.emoji.drawings import Drawing

PUBLIC_DOMAIN = ("http://web.resource.org/cc/PublicDomain", "http://creativecommons.org/licenses/publicdomain/")
# Series of near-copies, fills without an object, and themes whose file names are those of programs.
SERIES = re.compile(r"^special/|/stars/|/gradients/|/games/cards/|/led/|-theme/mimetypes/|^logos/|unsorted/")
NOT_FOR_CHILDREN = {"nazi", "swastika", "hitler", "nude", "naked", "sex", "sexy", "erotic", "breast", "breasts"}
NOT_FOR_CHILDREN |= {"gallows", "hanged", "stripper", "gun", "pistol"}
# Words of the keywords that name no thing: they would let file names pass for captions.
NO_WORDS = {"hash", "gnome", "kde", "mime", "apps", "app", "emblem", "stock", "simplified", "contour", "architetto"}
NO_WORDS |= {"gg", "bb", "nfs", "windows", "pimp"}
LARGEST_SVG = 400_000  # bytes; the few larger ones are traced photos
MOST_OF_A_CAPTION = 6  # pictures under one caption


@dataclass(frozen=True)
class _Clip:
    path: Path
    folder: str  # path of its folder inside the package
    title: str
    author: str
    keywords: tuple[str, ...]


def clipart(cache: Path, emoji: dict[str, Emoji], icon_words: frozenset[str]) -> Iterator[Drawing]:
    """Pictures of the public-domain collection with an English caption, in the order of their paths."""
    root = packages.folder("openclipart-svg", cache) / "usr/share/openclipart/svg"
    clips = [clip for path in sorted(root.rglob("*.svg")) if (clip := _read(path, root)) is not None]
    chinese = {caption_key(meaning.captions["en"]): meaning.captions["zh"] for meaning in emoji.values()}
    titles = Counter(clip.title.casefold() for clip in clips)
    vocabulary = _vocabulary(clips, emoji) | icon_words
    drawn: Counter[str] = Counter()
    for clip in clips:
        caption = _caption(clip, titles, vocabulary)
        if caption is None or drawn[caption] >= MOST_OF_A_CAPTION:
            continue
        drawn[caption] += 1
        group, _, subgroup = clip.folder.partition("/")
        yield Drawing(
            key=f"openclipart-{clip.folder}/{clip.path.stem}".replace("/", "-").replace(".", "_"),
            picture=clip.path,
            # Where the caption is word for word the label of an emoji, its Chinese label says the same.
            captions={"en": caption} | ({"zh": chinese[own]} if (own := caption_key(caption)) in chinese else {}),
            tags={"en": clip.keywords},
            group="clip art",
            subgroup=(subgroup or group).split("/")[-1].replace("_", " "),
            artist="openclipart",
            family="openclipart",
            license="public domain",
        )


def _read(path: Path, root: Path) -> _Clip | None:
    """What the file says of itself; None unless it is dedicated to the public domain and of a usable kind."""
    relative = path.relative_to(root).as_posix()
    if SERIES.search(relative) or path.stat().st_size > LARGEST_SVG:
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    license_of_file = re.search(r'cc:license\s+rdf:resource="([^"]*)"', text)
    if license_of_file is None or license_of_file.group(1) not in PUBLIC_DOMAIN:
        return None
    title = re.search(r"<dc:title[^>]*>(.*?)</dc:title>", text, re.S)
    author = re.search(r"<dc:creator>.*?<dc:title[^>]*>(.*?)</dc:title>", text, re.S)
    listed = re.findall(r"<rdf:li>(.*?)</rdf:li>", text)
    keywords = (_plain(word.replace("_", " ")) for word in listed if not re.match(r"hash|0x|\d|\W*$", word))
    return _Clip(
        path,
        Path(relative).parent.as_posix(),
        _plain(title.group(1)) if title else "",
        _plain(author.group(1)) if author else "",
        tuple(dict.fromkeys(word for word in keywords if word)),
    )


def _plain(text: str) -> str:
    return html.unescape(text).strip().lower()


def _vocabulary(clips: list[_Clip], emoji: dict[str, Emoji]) -> frozenset[str]:
    """English words: those of emoji, and keywords that several clips share."""
    words: set[str] = set()
    for meaning in emoji.values():
        for text in (meaning.captions["en"], *meaning.tags["en"]):
            words.update(caption_key(text).split())
    counts = Counter(word for clip in clips for text in clip.keywords for word in set(caption_key(text).split()))
    words.update(word for word, count in counts.items() if count >= 2 and word.isascii())
    return frozenset(word for word in words if word.isalpha()) - NO_WORDS


def _caption(clip: _Clip, titles: Counter[str], vocabulary: frozenset[str]) -> str | None:
    """The title if it is this picture's own, else the file name; None if it is no English."""
    generic = titles[clip.title.casefold()] > MOST_OF_A_CAPTION or re.search(
        r"clip ?art|collection|theme|icons$", clip.title
    )
    for text in (clip.path.stem,) if generic else (clip.title, clip.path.stem):
        words = caption_key(re.sub(r"(?<=[a-z])\d+$", "", _without_author(text, clip.author))).split()
        words = [word for word in words if not word.isdigit() and word not in ("bw", "svg", "icon", "icons")]
        if not 1 <= len(words) <= 6 or NOT_FOR_CHILDREN & set(words):
            continue
        known = [word in vocabulary or word.rstrip("s") in vocabulary or word in ("of", "and", "in") for word in words]
        cut_short = len(words) > 1 and len(words[-1]) < 3 and words[-1] not in ("up", "off", "on")
        if all(known) and not cut_short and max(map(len, words)) >= 3:
            flag = "/flags/" in f"{clip.folder}/" and "flag" not in words
            return ("flag: " if flag else "") + " ".join(words)
    return None


def _without_author(text: str, author: str) -> str:
    """`text` without the trailing words that begin the author's name ("milk_carton_jarno_vasama_" -> "milk carton")."""
    words = [word for word in re.split(r"[_\s]+", text.lower()) if word]
    while words and (re.fullmatch(r"\d+\w?|r", words[-1])):
        words.pop()
    names = caption_key(author).split()
    for start in range(1, len(words)):
        if names and all(any(n.startswith(w.strip(".-")) for n in names) for w in words[start:]):
            return " ".join(words[:start])
    return " ".join(words)
