"""Kinds of input, one per file: each hands over samples in a fixed order and names what it could not read."""

from __future__ import annotations

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.captions import named_captions, plain_field
from data_pipelines.sample import Sample
from vlp.pictures import Limits, Refused, opened

MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg"}
LONGEST_KEY = 90  # characters; with its ending it must fit the 100 of a tar's name


@dataclass(frozen=True)
class Unusable:
    """An input that is no sample: it is counted, and the first few are named in the manifest."""

    reason: str  # what is wrong, in the ledger's words ("missing caption"); the same words for the same trouble
    where: str  # the file, row or URL


@dataclass(frozen=True)
class Source(ABC):
    """A kind of input. Its fields are flags of `vlp shards build`."""

    component_package: ClassVar[str] = "data_pipelines.sources"
    incidental: ClassVar[tuple[str, ...]] = ()  # fields that change how fast samples come, not which

    keys_repeat: ClassVar[bool] = False
    """whether different samples may have one key; a shard then has the second one under another"""

    def parts(self) -> tuple[str, ...]:
        """The folders the source is split into, such as ("train", "val"); one nameless part if it is not."""
        return ("",)

    @abstractmethod
    def items(self, part: str) -> Iterator[Sample | Unusable]:
        """Everything in `part`, in an order that is the same at every call. Raises UserError if there is nothing."""

    def inputs(self, part: str) -> str:
        """The inputs of `part` in words that change when they do, such as `described` gives; empty: unknown."""
        return ""

    def about(self, part: str) -> dict[str, Any]:
        """What the manifest should say of `part` besides the counts; JSON values."""
        return {}


def described(root: Path, paths: Iterable[Path]) -> str:
    """Files by their number, bytes, and a digest of their names under `root` and sizes, in words."""
    digest, count, size = hashlib.sha256(), 0, 0
    for path in sorted(paths):
        length = path.stat().st_size
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        digest.update(f"{name} {length}\n".encode("utf-8", "surrogateescape"))
        count, size = count + 1, size + length
    return f"{count:,} {'file' if count == 1 else 'files'} of {size:,} bytes ({digest.hexdigest()[:8]})"


def not_read(path: Path, root: Path) -> str:
    """Why a file under `root` is not read: it is a link to nothing, or lies outside; "" if it is."""
    if not path.exists():
        return "a link to nothing" if path.is_symlink() else "no such file"
    if not path.resolve().is_relative_to(root.resolve()):
        return f"it lies outside of {root}, and links are not followed out of it"
    return ""


def safe_key(name: str) -> str:
    """`name` as the key of a sample: letters, digits, hyphens and underscores; distinct names stay distinct.

    >>> safe_key("beach_01"), safe_key("2024/beach_01")
    ('beach_01', '2024-beach_01-5169c5e9')
    """
    key = re.sub(r"[^A-Za-z0-9_-]+", "_", name.replace("/", "-"))
    if key == name and len(key) <= LONGEST_KEY:
        return key
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{key[: LONGEST_KEY - 9]}-{digest}"


def sample_of(record: Mapping[str, Any], name: str, picture: tuple[bytes, str], language: str) -> Sample | None:
    """The sample called `name` that a record tells of, None if it has no caption; `picture` is (bytes, format).

    The field that its caption was read from is not kept a second time.
    """
    sample = Sample.of_record(safe_key(name), *picture, record, language=language)
    used = {"txt"} if named_captions(record) else {"txt", plain_field(record)}
    metadata = {name: value for name, value in sample.metadata.items() if name not in used}
    return replace(sample, metadata=metadata) if sample.captions else None


def as_stored(data: bytes) -> tuple[bytes, str] | None:
    """`data` and its format if shards store it as it is, else the picture as PNG; None if it is no picture."""
    for magic, name in MAGIC.items():
        if data.startswith(magic):
            return data, name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return data, "webp"
    try:
        with opened(data, Limits()) as picture:
            file = io.BytesIO()
            picture.convert("RGBA" if "transparency" in picture.info or "A" in picture.mode else "RGB").save(
                file, "PNG"
            )
    except Refused:
        return None
    return file.getvalue(), "png"
