"""Where every sample of a tar lies, so that any of them is one read away.

Keys and extensions follow webdataset (a sample is the files that share the path up to the first dot of the base name);
the tests compare this reader with webdataset's own on healthy tars. It goes on after damage, and counts what is lost.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlp.files import write_whole

BLOCK = 512
MOST_META_BYTES = 1 << 20
END_OF_TAR_BYTES = 10240  # tar pads its end with zeros to a multiple of this
FORMATS = ("jpg", "png", "webp", "gif", "bmp", "tif")
IMAGE = {"jpeg": "jpg", "jpg": "jpg", "jpe": "jpg", "png": "png", "webp": "webp", "gif": "gif", "bmp": "bmp"}
IMAGE |= {"tif": "tif", "tiff": "tif"}
MEMBERS = ("image", "txt", "json", "cls")
CUT = "cut, unknown loss"  # in an index: 1 where the tar does not end as tars do
FORMAT = 2  # of a saved index; another one is built anew
_KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$", re.DOTALL)  # webdataset's base_plus_ext
_META = re.compile(r"__[^/]*__($|/)")  # names webdataset skips


class Readable(Protocol):
    """Bytes by position: a local tar, a remote one, or bytes in memory."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer only at the end."""
        ...


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar, in the order of their first file."""

    keys: tuple[str, ...]
    formats: NDArray[np.uint8]  # [n] index into FORMATS
    spans: NDArray[np.int64]  # [n, 4, 2] offset and size of each of MEMBERS; size -1 where there is none
    tar_bytes: int  # size of the tar that was read
    lost: dict[str, int] = field(default_factory=dict)  # reason -> samples that cannot be delivered
    gap: int = 0  # bytes of damage between whole files; "corrupt tar" counts each stretch of it once

    @cached_property
    def identity(self) -> str:
        """A digest of the names, places and sizes of all files: another one means another tar."""
        facts = hashlib.blake2b(f"{self.tar_bytes} {self.keys}".encode("utf-8", "surrogatepass"), digest_size=16)
        facts.update(np.ascontiguousarray(self.spans).tobytes())
        return facts.hexdigest()

    def __len__(self) -> int:
        return len(self.keys)

    def save(self, path: Path) -> None:
        """Write the index to `path`, all or nothing."""
        buffer = io.BytesIO()
        head = json.dumps({"format": FORMAT, "bytes": self.tar_bytes, "lost": self.lost, "gap": self.gap}).encode()
        np.savez(
            buffer,
            keys=np.frombuffer("\n".join(self.keys).encode(), np.uint8),
            head=np.frombuffer(head, np.uint8),
            formats=self.formats,
            spans=self.spans,
        )
        write_whole(path, buffer.getvalue(), shared=True)

    @classmethod
    def load(cls, data: bytes) -> TarIndex:
        """The index that `save` wrote.

        Raises ValueError if it is damaged, of another format, or says what no index of a tar can say.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                if sum(one.file_size for one in packed.infolist()) > 2 * len(data):  # `save` does not compress
                    raise ValueError("the index unpacks to more than it is")
            with np.load(io.BytesIO(data)) as z:
                head = json.loads(z["head"].tobytes())
                text = z["keys"].tobytes().decode()
                formats, spans = z["formats"], z["spans"]
            if head.get("format") != FORMAT:
                raise ValueError(f"the index has format {head.get('format')}, expected {FORMAT}")
            size, gap = int(head["bytes"]), int(head["gap"])
            lost = {str(reason): int(n) for reason, n in head["lost"].items()}
        except (zipfile.BadZipFile, KeyError, OSError, EOFError, TypeError, AttributeError, MemoryError) as error:
            raise ValueError(f"the index is damaged: {error}") from None
        keys = tuple(text.split("\n")) if len(formats) else ()
        index = cls(keys, formats, spans, size, lost, gap)
        index._check()
        return index

    def _check(self) -> None:
        """Raise ValueError if this cannot be the index of a tar of its size: names, places and sizes."""
        spans, n = self.spans, len(self.keys)
        if spans.shape != (n, len(MEMBERS), 2) or self.formats.shape != (n,) or len(set(self.keys)) != n:
            raise ValueError("the index contradicts itself")
        if spans.dtype != np.int64 or self.formats.dtype != np.uint8 or (n and self.formats.max() >= len(FORMATS)):
            raise ValueError("the index has numbers of another kind")
        if min(self.lost.values(), default=0) < 0 or self.gap < 0 or not all(map(safe, self.keys)):
            raise ValueError("the index has names or counts that no tar can have")
        there = spans[spans[..., 1] >= 0]
        inside = (there[:, 0] >= BLOCK) & (there[:, 0] % BLOCK == 0) & (there[:, 1] <= self.tar_bytes - there[:, 0])
        if not inside.all() or (spans[..., 1] < -1).any() or (n and (spans[:, 0, 1] < 0).any()):
            raise ValueError("the index has files outside of its tar")


def cached_path(url: str, version: str, folder: Path) -> Path:
    """Where the index of `url` is kept when it cannot lie beside the tar; `version` changes when the tar does."""
    return folder / f"{_short(url)}-{_short(version)}.index"


def cached_earlier(url: str, folder: Path) -> list[Path]:
    """Where indexes of `url` are kept, of whatever version."""
    return sorted(folder.glob(f"{_short(url)}-*.index"))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def beside(url: str) -> str:
    """The name of the index beside a tar: 00000.tar -> 00000.index."""
    return f"{url.removesuffix('.tar')}.index"


def build(source: Readable, *, block: int = 4096) -> TarIndex:
    """The index of a tar, read through once (`block` bytes at a time, headers only where blocks are small)."""
    scan = _Scan(source, block)
    groups: dict[str, dict[str, tuple[int, int, str]]] = {}
    broken: dict[str, str] = {}  # key -> why the sample is lost
    lost: Counter[str] = Counter()
    for name, offset, size in scan.members():
        if _META.match(name):
            continue
        match = _KEY.match(name)
        if match is None:
            continue
        key, extension = match.group(1), match.group(2).lower()
        member = "image" if extension in IMAGE else extension
        if member not in MEMBERS:
            continue
        if not safe(key):
            broken[key] = "unsafe name"
        group = groups.setdefault(key, {})
        if member in group:
            lost["duplicate key"] += member == "image" and group[member][2] == extension
            continue
        if offset + size > source.size:
            broken.setdefault(key, "truncated tail")
        group[member] = (offset, size, extension)
    lost.update(scan.lost)
    if not groups and not lost:  # no shard is meant to be empty
        lost[CUT] = 1
    return replace(_assemble(groups, broken, lost, source.size), gap=scan.gap)


def sample_files(source: Readable, index: TarIndex, *, block: int = 4096) -> list[list[tuple[str, int, int]]]:
    """(ending with its dot, offset, size) of every file of each sample of `index`, those it does not know included.

    Of files with one name the first is taken; a file that is cut off is left out.
    """
    rows = {key: row for row, key in enumerate(index.keys)}
    files: list[dict[str, tuple[str, int, int]]] = [{} for _ in index.keys]
    for name, offset, size in _Scan(source, block).members():
        match = None if _META.match(name) else _KEY.match(name)
        if match is not None and match.group(1) in rows and offset + size <= source.size:
            ending = name[len(match.group(1)) :]
            files[rows[match.group(1)]].setdefault(ending, (ending, offset, size))
    return [list(one.values()) for one in files]


def _assemble(
    groups: dict[str, dict[str, tuple[int, int, str]]], broken: dict[str, str], lost: Counter[str], size: int
) -> TarIndex:
    """The index of the whole samples among `groups`, and the count of the others by reason."""
    keys, formats, spans = [], [], []
    for key, group in groups.items():
        if key not in broken and "image" not in group:
            broken[key] = "missing picture"
        elif key not in broken and "txt" not in group and "json" not in group and "cls" not in group:
            broken[key] = "missing caption"
        if key in broken:
            continue
        keys.append(key)
        formats.append(FORMATS.index(IMAGE[group["image"][2]]))
        spans.append([group[m][:2] if m in group else (0, -1) for m in MEMBERS])
    lost.update(broken.values())
    return TarIndex(
        tuple(keys),
        np.array(formats, np.uint8),
        np.array(spans, np.int64).reshape(len(keys), len(MEMBERS), 2),
        size,
        {reason: n for reason, n in lost.items() if n},
    )


def safe(key: str) -> bool:
    """Whether a key may name a file below a folder: relative, no `..`, no control characters."""
    return not (key.startswith("/") or ".." in key.split("/") or any(ord(c) < 32 or c == "\x7f" for c in key))


class _Scan:
    """Headers of a tar in order, resuming at the next valid header after damage."""

    def __init__(self, source: Readable, block: int) -> None:
        self.source, self.block = source, block
        self.lost: Counter[str] = Counter()
        self.gap = 0
        self._start, self._kept = 0, b""

    def _at(self, start: int, length: int) -> bytes:
        if not (self._start <= start and start + length <= self._start + len(self._kept)):
            self._start, self._kept = start, self.source.read(start, max(length, self.block))
        return self._kept[start - self._start : start - self._start + length]

    def members(self) -> Iterator[tuple[str, int, int]]:
        """(name, offset, size) of every regular file."""
        position, long_name, long_size, ended = 0, "", -1, False
        while position + BLOCK <= self.source.size:
            head = self._at(position, BLOCK)
            ended = not any(head)
            if not checksum_fits(head):
                position, long_name, long_size = self._resync(position, blank=not any(head)), "", -1
                continue
            size, kind = number(head[124:136]), head[156:157]
            data = position + BLOCK
            following = data + -(-size // BLOCK) * BLOCK
            if kind in b"LxgK" and kind:
                if size > MOST_META_BYTES:
                    self.lost["corrupt tar"] += 1
                elif kind == b"L":
                    long_name = text(self._at(data, size).rstrip(b"\0"))
                elif kind == b"x":
                    records = pax(self._at(data, size))
                    long_name, long_size = records.get("path", long_name), int(records.get("size", long_size))
            elif kind in (b"0", b"\0", b"7"):
                size = size if long_size < 0 else long_size
                following = data + -(-size // BLOCK) * BLOCK
                yield long_name or plain_name(head), data, size
                long_name, long_size = "", -1
            else:
                long_name, long_size = "", -1
            position = following
        if not ended:  # a whole tar ends in zeros
            self.lost[CUT] = 1

    def _resync(self, position: int, *, blank: bool) -> int:
        """The next valid header after `position`, or the end; damage is counted, the end of a tar is not."""
        start, chunk = position, 1 << 20
        while position < self.source.size:
            part = self.source.read(position, chunk + BLOCK)
            at = part.find(b"ustar")
            blank = blank and not part[: at - 257 if at >= 257 else chunk].strip(b"\0")
            while at >= 0:
                head = at - 257
                if head >= 0 and (position + head) % BLOCK == 0 and checksum_fits(part[head : head + BLOCK]):
                    header = position + head
                    if not (blank and header in ends(start)):  # cat a.tar b.tar
                        self.lost["corrupt tar"] += 1
                        self.gap += header - start
                    return header
                at = part.find(b"ustar", at + 1)
            position += chunk
        if not blank or self.source.size - start > (1 << 20):
            self.lost["corrupt tar"] += 1
        elif self.source.size - start >= 2 * BLOCK + END_OF_TAR_BYTES:  # longer than any end: what was here is gone
            self.lost[CUT] = 1
        return self.source.size


def ends(last: int) -> tuple[int, int]:
    """Where a tar may end whose last file ends at `last`: after two blocks of zeros, or where those fill a record."""
    shortest = last + 2 * BLOCK
    return shortest, -(-shortest // END_OF_TAR_BYTES) * END_OF_TAR_BYTES


def checksum_fits(head: bytes) -> bool:
    """Whether 512 bytes are a tar header: their sum is the one they carry."""
    if len(head) < BLOCK or not head[0]:
        return False
    try:
        stated = int(head[148:156].strip(b" \0") or b"-1", 8)
    except ValueError:
        return False
    return stated == sum(head) - sum(head[148:156]) + 8 * 32


def number(raw: bytes) -> int:
    """A tar number, never negative: octal text, or base 256 if the top bit is set."""
    if raw[0] & 0x80:
        return int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big")
    try:
        return max(0, int(raw.strip(b" \0") or b"0", 8))
    except ValueError:
        return 0


def text(raw: bytes) -> str:
    """A name as text; bytes that are not UTF-8 are written out as \\xNN."""
    return raw.decode("utf-8", "backslashreplace")


def plain_name(head: bytes) -> str:
    """The name in a ustar header."""
    name, prefix = head[:100].split(b"\0", 1)[0], head[345:500].split(b"\0", 1)[0]
    return text(prefix + b"/" + name if prefix and head[257:263] == b"ustar\0" else name)


def pax(raw: bytes) -> dict[str, str]:
    """The records of a pax header ("27 path=..."), as far as they can be read."""
    out, at = {}, 0
    while at < len(raw):
        space = raw.find(b" ", at)
        digits = raw[at:space]
        if space < 0 or not digits.isdigit() or len(digits) > 8 or not 0 < int(digits) <= len(raw) - at:
            break
        key, _, value = raw[space + 1 : at + int(digits) - 1].partition(b"=")
        out[text(key)] = text(value)
        at += int(digits)
    size = out.get("size", "0")
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        del out["size"]
    return out
