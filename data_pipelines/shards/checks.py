"""Whether bytes are those of a tar, and of the tar that its manifest or its index speaks of."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from data_pipelines.remote.patience import Replaced, Unreadable
from data_pipelines.shards.manifest import ShardRecord
from data_pipelines.shards.tar_index import BLOCK, CUT, Readable, TarIndex, checksum_fits, number, plain_name
from vlp.files import write_whole

Verify = Literal["none", "size", "sha256"]
CHUNK = 1 << 22
PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"BZh": ("bzip2", "bunzip2"),
}  # first bytes -> format, and the program that unpacks it
PAGES = (b"<!doctype", b"<html", b"<?xml", b'{"')  # how the answers of servers begin that have no such file


def refuse_strange(url: str, source: Readable) -> None:
    """Raise Unreadable, in one sentence, for what is compressed, or a page of a server instead of a tar."""
    head = source.read(0, 16)
    for magic, (name, program) in PACKED.items():
        if head.startswith(magic):
            raise Unreadable(
                f"{url} is compressed ({name}), and samples of a compressed tar cannot be read one by one: "
                f"unpack it with {program}"
            )
    if head.lstrip().lower().startswith(PAGES):
        text = source.read(0, 40).decode("utf-8", "replace").strip()
        raise Unreadable(f"{url} is no tar: it begins with {text!r}, as the page of a server does")


def verify(url: str, source: Readable, index: TarIndex, record: ShardRecord, cache: Path, *, sums: bool) -> None:
    """Raise Replaced if the tar is not the one that a manifest has a `record` of; one that is cut short passes.

    Compares its size and its number of samples, and with `sums` its checksum, once for each version of the file (what
    was compared is noted in the folder `cache`). A record without a checksum vouches for nothing.
    """
    if not record.sha256:
        return
    if source.size < record.bytes and CUT in index.lost:
        return  # the rest of it is whole, and what it lacks is counted
    what = ""
    if source.size != record.bytes:
        what = f"{source.size:,} bytes, but its manifest says {record.bytes:,}"
    elif len(index) != record.samples and not index.lost:
        what = f"{len(index):,} samples, but its manifest says {record.samples:,}"
    elif sums and (digest := _sha256(source, _note(url, source, record, cache))) not in ("", record.sha256):
        what = f"the sha256 {digest[:16]}..., but its manifest says {record.sha256[:16]}..."
    if what:
        raise Replaced(f"{url} was replaced or damaged since its manifest was written: it has {what}")
    if sums:
        with contextlib.suppress(OSError):
            write_whole(_note(url, source, record, cache), b"", shared=True)


def _note(url: str, source: Readable, record: ShardRecord, cache: Path) -> Path:
    version = getattr(source, "version", "")
    return cache / f"{hashlib.sha256(f'{url} {version} {record.sha256}'.encode()).hexdigest()[:40]}.verified"


def _sha256(source: Readable, note: Path) -> str:
    """The checksum; "" if it is noted as right."""
    if note.exists():
        return ""
    digest = hashlib.sha256()
    for start in range(0, source.size, CHUNK):
        digest.update(source.read(start, CHUNK))
    return digest.hexdigest()


def check_headers(url: str, source: Readable, key: str, spans: Sequence[Sequence[int]]) -> None:
    """Raise Unreadable if files of a sample do not lie where an index says: before each must be its header."""
    keys = (key, key.encode("ascii", "replace").decode())  # as headers have it; a name that is no ASCII is put before
    for start, size in spans:
        head = source.read(start - BLOCK, BLOCK)
        name = plain_name(head) if checksum_fits(head) else ""
        long = len(name.encode()) >= 99  # the whole name is in a header before, and only begins here
        if number(head[124:136]) != size or not any(
            name.startswith(f"{one}.") or (long and one.startswith(name[:90])) for one in keys
        ):
            raise Unreadable(
                f"{url}: the .index beside it says that {key} lies at byte {start:,}, but the tar has it not there: "
                "remove the .index"
            )
