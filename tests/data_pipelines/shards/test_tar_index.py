"""The index against webdataset's own reading, and against a corpus of broken tars."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.remote.fetch import LocalFile
from data_pipelines.shards.tar_index import CUT, TarIndex, build, number, pax

Files = list[tuple[str, bytes]]
WriteTar = Callable[[Path, Iterable[tuple[str, bytes]]], Path]


class Held:
    """A tar in memory."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]


def files(n: int, *, side: int = 700) -> Files:
    body = np.random.default_rng(1).bytes(side)
    return [(f"{i:03d}.{ext}", body if ext == "jpg" else b"x%d" % i) for i in range(n) for ext in ("jpg", "txt")]


def raw(held: Files, form: int = tarfile.USTAR_FORMAT) -> bytearray:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in held:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return bytearray(out.getvalue())


def test_agrees_with_webdataset_on_healthy_tars(tmp_path: Path, write_tar: WriteTar) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    held: Files = []
    for i in range(30):
        name = f"part{i % 3}/deep.folder/{'long' * 40 if i % 5 == 0 else ''}图{i}"
        held += [(f"{name}.JPG", bytes([i]) * (i * 37)), (f"{name}.txt", f"c{i}".encode()), (f"{name}.seg.png", b"no")]
    held.append(("__meta__/info.txt", b"skipped"))
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        usable = [f for f in held if form != tarfile.USTAR_FORMAT or len(f[0].encode()) < 100]
        path = tmp_path / f"{form}.tar"
        path.write_bytes(raw(usable, form))
        with path.open("rb") as stream:
            members = ({**m, "__url__": str(path)} for m in tar_file_iterator(stream))
            want = {s["__key__"]: (s["jpg"], s["txt"]) for s in group_by_keys(members)}
        index, source = build(LocalFile(str(path))), LocalFile(str(path))
        got = {}
        for key, spans in zip(index.keys, index.spans.tolist(), strict=True):
            got[key] = tuple(source.read(*spans[m]) for m in (0, 1))
        assert got == want
        assert index.lost == {}


def test_saved_and_loaded(tmp_path: Path) -> None:
    index = build(Held(bytes(raw(files(5)))))
    index.save(tmp_path / "a.index")
    again = TarIndex.load((tmp_path / "a.index").read_bytes())
    assert (again.keys, again.tar_bytes, again.lost) == (index.keys, index.tar_bytes, index.lost)
    assert (again.spans == index.spans).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.index"]
    with pytest.raises(ValueError, match="damaged"):
        TarIndex.load((tmp_path / "a.index").read_bytes()[:50])


@pytest.mark.parametrize("cut", [100, 700, 1030, 1100, 5000, 9000])
def test_a_truncated_tail_loses_only_the_tail(cut: int) -> None:
    whole = raw(files(20))
    end = build(Held(bytes(whole))).spans[-1, 1].sum()
    index = build(Held(bytes(whole[: end - cut])))
    assert index.keys == tuple(f"{i:03d}" for i in range(len(index)))
    assert 20 - len(index) == -(-cut // 2560) or 20 - len(index) == -(-cut // 2560) + 1
    assert set(index.lost) <= {CUT, "truncated tail", "missing caption"}
    assert index.lost[CUT] == 1


def test_zeros_in_the_middle_lose_what_they_cover() -> None:
    tar = raw(files(20))
    tar[2560 * 5 : 2560 * 9] = bytes(2560 * 4)
    index = build(Held(bytes(tar)))
    assert set(index.keys) == {f"{i:03d}" for i in range(20) if not 5 <= i < 9}
    assert index.lost == {"corrupt tar": 1}


def test_a_damaged_header_loses_its_sample() -> None:
    tar = raw(files(20))
    tar[2560 * 7 + 120 : 2560 * 7 + 150] = b"\xff" * 30
    index = build(Held(bytes(tar)))
    assert "007" not in index.keys
    assert len(index) == 19
    assert index.lost == {"corrupt tar": 1, "missing picture": 1}


def test_members_out_of_order_still_find_each_other() -> None:
    held = files(10)
    index = build(Held(bytes(raw(held[::2] + held[1::2]))))
    assert len(index) == 10
    assert index.lost == {}


def test_duplicate_keys_are_delivered_once_and_counted() -> None:
    index = build(Held(bytes(raw(files(4) + files(3)))))
    assert len(index) == 4
    assert index.lost == {"duplicate key": 3}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/x", "a/../b", "a\nb", "a\x1bc"])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    index = build(Held(bytes(raw([(f"{name}.jpg", b"1"), (f"{name}.txt", b"2"), *files(2)], tarfile.GNU_FORMAT))))
    assert len(index) == 2
    assert index.lost == {"unsafe name": 1}


def test_huge_headers_do_not_fill_the_memory() -> None:
    whole = raw(files(3))
    bomb = tarfile.TarInfo("././@LongLink")
    bomb.type, bomb.size = b"L", 1 << 40
    index = build(Held(bytes(bomb.tobuf(tarfile.GNU_FORMAT) + whole)))
    assert sum(index.lost.values()) >= 1


def test_names_that_are_not_utf8_and_other_kinds_of_members() -> None:
    tar = raw(files(2))
    link = tarfile.TarInfo("000.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    odd = tarfile.TarInfo("caf\udce9.jpg").tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    odd += tarfile.TarInfo("caf\udce9.txt").tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    index = build(Held(link.tobuf() + folder.tobuf() + odd + bytes(tar)))
    assert index.keys == ("caf\\xe9", "000", "001")
    assert index.spans[1, 2, 1] == -1  # no .json: links are not followed


def test_what_lacks_a_picture_or_a_text_is_counted() -> None:
    index = build(Held(bytes(raw([("a.jpg", b"1"), ("b.txt", b"2"), ("c.png", b"3"), ("c.txt", b"4")]))))
    assert index.keys == ("c",)
    assert index.lost == {"missing caption": 1, "missing picture": 1}


@pytest.mark.parametrize("data", [b"", b"\0" * 10240, b"not a tar" * 1000, b"\x1f\x8b" + b"\xff" * 4000])
def test_what_is_no_tar_holds_nothing(data: bytes) -> None:
    assert len(build(Held(data))) == 0


def test_numbers_and_records_of_headers() -> None:
    assert number(b"0000644\0") == 0o644
    assert number(b"\x80" + bytes(7) + b"\x02\0\0\0") == 1 << 25
    assert pax(b"11 path=ab\n9 size=x\n") == {"path": "ab"}
    assert pax(b"999999 path") == {}
