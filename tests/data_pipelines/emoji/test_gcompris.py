"""GCompris: resource files written here byte by byte, and the pictures and words that are joined out of them."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

from data_pipelines.emoji import packages
from data_pipelines.emoji.captions import Emoji
from data_pipelines.emoji.gcompris import COMPRESSED, DIRECTORY, PACKAGE, ZSTANDARD, gcompris, resources
from vlp.errors import UserError

ACTIVITIES = "gcompris/src/activities"


def write_rcc(path: Path, files: dict[str, bytes], *, version: int = 3, flags: int = 0) -> Path:
    """A resource file with `files` by their paths, its tree breadth first, as Qt's rcc lays it out."""
    folders = {""} | {name.rsplit("/", n)[0] for name in files for n in range(1, name.count("/") + 1)}
    below = {
        folder: [p for p in sorted({*folders, *files} - {""}) if p.rpartition("/")[0] == folder] for folder in folders
    }
    order = [""]
    for entry in order:
        order += below.get(entry, [])
    tree, data, names = b"", b"", b""
    for entry in order:
        offset = len(names)
        name = entry.rpartition("/")[2]
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if entry in below:
            first = order.index(below[entry][0]) if below[entry] else 0
            tree += struct.pack(">IHII", offset, DIRECTORY, len(below[entry]), first)
        else:
            content = files[entry]
            stored = struct.pack(">I", len(content)) + zlib.compress(content) if flags & COMPRESSED else content
            tree += struct.pack(">IHHHI", offset, flags, 0, 0, len(data))
            data += struct.pack(">I", len(stored)) + stored
        tree += b"\0" * 8 if version > 1 else b""  # when the file was last changed
    head = 24 if version > 2 else 20
    header = struct.pack(">4s4I", b"qres", version, head, head + len(tree), head + len(tree) + len(data))
    path.write_bytes(header.ljust(head, b"\0") + tree + data + names)
    return path


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("flags", [0, COMPRESSED])
def test_resources_come_out_as_they_went_in(tmp_path: Path, version: int, flags: int) -> None:
    files = {"a/b/one.txt": b"one" * 50, "a/二.txt": "二".encode(), "top": b""}
    assert resources(write_rcc(tmp_path / "x.rcc", files, version=version, flags=flags)) == files


def test_a_resource_file_written_out_by_hand(tmp_path: Path) -> None:
    """The bytes of `write_rcc` for one file, spelled out, so that writer and reader cannot be wrong together."""
    tree = "00000000 0002 00000001 00000001" + "0000000000000000"  # the root: a folder, one child, which is node 1
    tree += "00000006 0000 0000 0000 00000000" + "0000000000000000"  # a plain file of any country and language
    data, names = "00000002 6869", "0000 00000000" + "0001 00000061 0061"  # "hi"; the names "" and "a"
    header = "71726573 00000003 00000018 00000044 0000004a 00000000"
    path = tmp_path / "x.rcc"
    path.write_bytes(bytes.fromhex(header + tree + data + names))
    assert resources(path) == {"a": b"hi"}


def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.rcc"
    with pytest.raises(UserError, match="is missing from the unpacked package"):
        resources(path)
    whole = write_rcc(path, {"a/b": b"x" * 99}, flags=COMPRESSED).read_bytes()
    for damaged in (whole[:30], whole[:-20], whole.replace(b"\x78\x9c", b"\xff\xff")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.rcc is damaged"):
            resources(path)
    path.write_bytes(b"PK" + whole)
    with pytest.raises(UserError, match="is no Qt resource file"):
        resources(path)
    path.write_bytes(whole[:4] + struct.pack(">I", 9) + whole[8:])
    with pytest.raises(UserError, match="of version 9; versions 1 to 3"):
        resources(path)
    # A folder that holds itself would be walked for ever.
    path.write_bytes(whole[:24] + struct.pack(">IHII", 0, DIRECTORY, 1, 0) + whole[38:])
    with pytest.raises(UserError, match="holds files that are not there"):
        resources(path)
    write_rcc(path, {"a/b": b"x"}, flags=ZSTANDARD)
    with pytest.raises(UserError, match="a/b, which is compressed with Zstandard"):
        resources(path)


def test_pictures_meet_their_words(tmp_path: Path) -> None:
    root = tmp_path / f"{packages.PACKAGES[PACKAGE].archive}.d/usr/share/gcompris-qt/rcc"
    root.mkdir(parents=True)
    lang, farm = f"{ACTIVITIES}/lang/resource", f"{ACTIVITIES}/explore_farm_animals/resource"
    voices = {"one": "alphabet/U0031.$CA", "mauve": "words/mauve.$CA", "unsaid": "words/unsaid.$CA"}
    words = [{"image": f"{name}.webp", "voice": f"voices-$CA/$LOCALE/{voice}"} for name, voice in voices.items()]
    lesson = {"imgPrefix": f"qrc:/{lang}/words_sample/", "content": [{"name": "number", "content": words}]}
    files = {f"{lang}/words_sample/{name}.webp": name.encode() for name in voices}
    files[f"{lang}/words_sample.json"] = json.dumps([lesson]).encode()
    english = {"U0031.ogg": "one", "mauve.ogg": "mauve", "horse.ogg": "horse", "triangle.ogg": "triangle"}
    chinese = {"U0031.ogg": "一", "mauve.ogg": "mauve", "horse.ogg": "马", "triangle.ogg": "三角形"}
    files[f"{lang}/content-en.json"] = json.dumps(english).encode()
    files[f"{lang}/content-zh_CN.json"] = json.dumps(chinese).encode()
    write_rcc(root / "lang.rcc", files, flags=COMPRESSED)
    board = f'{{"title": qsTr("Horse"),\n"text": qsTr("It neighs."),\n"image2": "qrc:/{farm}/animals/horse.webp"}}'
    readme = (
        b"Copyright: A\nLicense: CC-BY-SA 4.0\nFiles:\nhorse.webp\n\nCopyright: B\nLicense: Public Domain\nFiles:\nb"
    )
    photos = {f"{farm}/animals/horse.webp": b"photo", f"{farm}/animals/README": readme}
    write_rcc(root / "explore_farm_animals.rcc", photos | {f"{farm}/board/board1.qml": board.encode()})
    write_rcc(root / "explore_world_animals.rcc", {"x": b""})
    write_rcc(root / "explore_monuments.rcc", {"x": b""})
    music = f"{ACTIVITIES}/instruments"
    asked = "".join(
        f'{{"image": "qrc:/{music}/resource/{name}.svg",\n "text": qsTr("Find the {name}")}}'
        for name in ("triangle", "violin", "violin", "gone")
    )
    pictures = {f"{music}/resource/{name}.svg": b"<svg/>" for name in ("triangle", "violin")}
    write_rcc(root / "instruments.rcc", pictures | {f"{music}/instruments.js": asked.encode()})
    violin = Emoji("1f3bb", "", {"en": "violin", "zh": "小提琴"}, {}, "objects", "music")
    drawings = {drawing.key: drawing for drawing in gcompris(tmp_path, {"1f3bb": violin})}
    assert {key: drawing.captions for key, drawing in drawings.items()} == {
        "gcompris-words-one": {"en": "one", "zh": "一"},
        "gcompris-words-mauve": {"en": "mauve"},
        "gcompris-photos-horse": {"en": "horse", "zh": "马"},
        "gcompris-instruments-triangle": {"en": "triangle"},
        "gcompris-instruments-violin": {"en": "violin", "zh": "小提琴"},
    }
    assert drawings["gcompris-photos-horse"].picture == b"photo"
    assert drawings["gcompris-photos-horse"].license == "CC-BY-SA-4.0"
    assert drawings["gcompris-words-one"].subgroup == "number"
    assert drawings["gcompris-instruments-violin"].picture == "<svg/>"
