"""GCompris' word pictures, photos and instruments, out of its Qt resource files. GPL-3+: to be used, not given on."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.emoji import packages
from data_pipelines.emoji.captions import Emoji, caption_key
from data_pipelines.emoji.drawings import Drawing
from vlp.errors import UserError

PACKAGE = "gcompris-qt-data"
ACTIVITIES = "gcompris/src/activities"
WORDS = f"{ACTIVITIES}/lang/resource"
LICENSE = "GPL-3.0-or-later"  # of the package, and of what states no other
WORDS_LICENSE = "CC-BY-SA-3.0"  # of Art4Apps, who drew the words, as the package's copyright file has it
# The boards of an activity name their photos: the activity, the group of its photos, whether the names are proper ones.
BOARDS = (
    ("explore_farm_animals", "animals", False),
    ("explore_world_animals", "animals", False),
    ("explore_monuments", "monuments", True),
)
PHOTO = re.compile(r'"title":\s*qsTr\("([^"]+)"\)[^}]*?"image2":\s*"qrc:/([^"]+)"')
INSTRUMENT = re.compile(r'"image":\s*"qrc:/([^"]+)",\s*"text":\s*qsTr\("Find the ([^"]+)"\)')
HAN = re.compile(r"[\u4e00-\u9fff]")
OTHER_SENSE = {"triangle"}  # instruments whose English name has the Chinese of another thing in the tables: the shape

# Flags of an entry, as Qt's resource compiler (rcc) writes them.
COMPRESSED, DIRECTORY, ZSTANDARD = 1, 2, 4
KNOWN_VERSIONS = {1: 14, 2: 22, 3: 22}  # version of the format -> bytes of a tree node


def gcompris(cache: Path, emoji: dict[str, Emoji]) -> Iterator[Drawing]:
    """Every picture that is named in English: first the words, then the photos, then the instruments.

    A photo or an instrument has the Chinese of the word, else of the emoji, that has the same English name.
    """
    root = packages.folder(PACKAGE, cache) / "usr/share/gcompris-qt/rcc"
    lang = resources(root / "lang.rcc")
    english, chinese = (json.loads(lang[f"{WORDS}/content-{code}.json"]) for code in ("en", "zh_CN"))
    chinese_of = {caption_key(meaning.captions["en"]): meaning.captions["zh"] for meaning in emoji.values()}
    chinese_of |= {
        caption_key(word): chinese[voice] for voice, word in english.items() if HAN.search(chinese.get(voice, ""))
    }
    yield from _words(lang, english, chinese)
    for activity, group, proper in BOARDS:
        yield from _photos(resources(root / f"{activity}.rcc"), group, proper, chinese_of)
    yield from _instruments(resources(root / "instruments.rcc"), chinese_of)


def _words(lang: dict[str, bytes], english: dict[str, str], chinese: dict[str, str]) -> Iterator[Drawing]:
    for chapter in json.loads(lang[f"{WORDS}/words_sample.json"]):
        folder = chapter["imgPrefix"].removeprefix("qrc:/")
        for lesson in chapter["content"]:
            for word in lesson["content"]:
                # A word goes by the name of its recording in every language's table: "one" is "U0031.ogg".
                voice = word["voice"].rpartition("/")[2].replace("$CA", "ogg")
                name, path = english.get(voice), folder + word["image"]
                if name and path in lang:
                    captions = _captions(name, chinese.get(voice, ""))
                    yield _drawing("words", path, lang[path], captions, lesson["name"], license=WORDS_LICENSE)


def _photos(files: dict[str, bytes], group: str, proper: bool, chinese_of: dict[str, str]) -> Iterator[Drawing]:
    licenses = _licenses(files)
    boards = (text.decode() for path, text in sorted(files.items()) if "/resource/board/" in path)
    for name, path in (match for board in boards for match in PHOTO.findall(board)):
        if path in files:
            captions = _captions(name if proper else name.lower(), chinese_of.get(caption_key(name), ""))
            yield _drawing("photos", path, files[path], captions, group, license=licenses.get(path, LICENSE))


def _instruments(files: dict[str, bytes], chinese_of: dict[str, str]) -> Iterator[Drawing]:
    # A dictionary, because later levels ask for the instruments of earlier ones again.
    for path, name in dict(INSTRUMENT.findall(files[f"{ACTIVITIES}/instruments/instruments.js"].decode())).items():
        if path in files:
            captions = _captions(name, "" if name in OTHER_SENSE else chinese_of.get(caption_key(name), ""))
            yield _drawing("instruments", path, files[path], captions, "music", license=LICENSE)


def _licenses(files: dict[str, bytes]) -> dict[str, str]:
    """What each README says of the files beside it: blocks of "License: ..." and, after "Files:", names."""
    licenses: dict[str, str] = {}
    for readme in (path for path in files if path.endswith("/README")):
        for block in files[readme].decode().split("\n\n"):
            lines = [line.strip() for line in block.splitlines()]
            stated = [line.removeprefix("License: ") for line in lines if line.startswith("License: ")]
            if stated and "Files:" in lines:
                name = {"Public Domain": "public domain"}.get(stated[0], stated[0].replace(" ", "-"))
                beside = readme.removesuffix("README")
                licenses |= {beside + line: name for line in lines[lines.index("Files:") + 1 :]}
    return licenses


def _captions(english: str, chinese: str) -> dict[str, str]:
    """Both names; without the Chinese one where a translator left the English word or none."""
    return {"en": english} | ({"zh": chinese} if HAN.search(chinese) else {})


def _drawing(kind: str, path: str, data: bytes, captions: dict[str, str], subgroup: str, *, license: str) -> Drawing:
    return Drawing(
        key=f"gcompris-{kind}-{Path(path).stem}",
        picture=data.decode() if path.endswith(".svg") else data,
        captions=captions,
        tags={},
        group=kind,
        subgroup=subgroup,
        artist="gcompris",
        family="gcompris",
        license=license,
    )


def resources(path: Path) -> dict[str, bytes]:
    """Every file of a Qt binary resource file (.rcc, versions 1 to 3) by its path inside it, unpacked.

    The format is that of Qt's QResource: a tree of nodes, the names and the data, each at an offset in the
    header; integers are big-endian. Raises UserError for another format, a damaged file or Zstandard compression.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing from the unpacked package; delete that package's folder and run again.")
    raw = path.read_bytes()
    if raw[:4] != b"qres" or len(raw) < 20:
        raise UserError(f"{path} is no Qt resource file (it does not begin with a header of `qres`).")
    version, tree, data, names = struct.unpack_from(">4I", raw, 4)
    if version not in KNOWN_VERSIONS:
        raise UserError(f"{path} is a Qt resource file of version {version}; versions 1 to 3 can be read.")
    try:
        return dict(_files(raw, tree, data, names, KNOWN_VERSIONS[version]))
    except (struct.error, zlib.error, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the package and its folder and run again.") from None
    except NotImplementedError as error:
        raise UserError(f"{path} holds {error}, which is compressed with Zstandard; only zlib can be read.") from None


def _files(raw: bytes, tree: int, data: int, names: int, size: int) -> Iterator[tuple[str, bytes]]:
    waiting = [(0, "")]
    while waiting:
        node, path = waiting.pop()
        _, flags, first, second = struct.unpack_from(">IHII", raw, tree + node * size)
        if not flags & DIRECTORY:
            yield path, _content(raw, data + second, flags, path)
            continue
        count, child = first, second
        if count and not node < child <= child + count <= (len(raw) - tree) // size:
            raise ValueError(f"the folder {path or '/'} holds files that are not there")
        for row in range(child, child + count):
            (offset,) = struct.unpack_from(">I", raw, tree + row * size)
            (length,) = struct.unpack_from(">H", raw, names + offset)
            start = names + offset + 6  # after the length and the hash
            name = raw[start : start + 2 * length].decode("utf-16-be")
            waiting.append((row, f"{path}/{name}" if path else name))


def _content(raw: bytes, start: int, flags: int, path: str) -> bytes:
    (length,) = struct.unpack_from(">I", raw, start)
    stored = raw[start + 4 : start + 4 + length]
    if len(stored) < length:
        raise ValueError(f"{path} is cut short")
    if flags & ZSTANDARD:
        raise NotImplementedError(path)
    if not flags & COMPRESSED:
        return stored
    (expected,) = struct.unpack_from(">I", stored)
    unpacked = zlib.decompress(stored[4:])
    if len(unpacked) != expected:
        raise ValueError(f"{path} should have {expected} bytes but has {len(unpacked)}")
    return unpacked
