"""manifest.json of a checkpoint: everything in it that is no tensor, and a checksum of every file beside it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vlp.distributed.tensor_parts import Table
from vlp.files import sha256

FORMAT = "vlp-checkpoint-3"
MANIFEST = "manifest.json"


class Damaged(Exception):
    """A checkpoint that is not as it was written; the text says what of it is not."""


@dataclass(frozen=True)
class FileFacts:
    """A file as it was written."""

    name: str
    bytes: int
    sha256: str

    @staticmethod
    def of(path: Path) -> FileFacts:
        """The facts of a file that is on disk."""
        return FileFacts(path.name, path.stat().st_size, sha256(path))

    def check(self, path: Path) -> None:
        """Raise Damaged if the file at `path` is another one, or none."""
        if not path.is_file():
            raise Damaged(f"{self.name} is missing")
        if (size := path.stat().st_size) != self.bytes:
            raise Damaged(f"{self.name} has {size:,} bytes where {self.bytes:,} were written")
        if sha256(path) != self.sha256:
            raise Damaged(f"{self.name} does not have its checksum any more")


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is: it is whole if this was written, and if the files are as it says."""

    step: int
    identity: dict[str, Any]
    """settings that a run which goes on must share"""
    plain: dict[str, Any]
    """everything that is no tensor, as JSON values"""
    metrics: dict[str, float]
    """numbers of the evaluation at this step; empty where there was none"""
    files: list[FileFacts]
    """in order of the rank that wrote them"""
    table: Table
    """which part of which tensor is where"""

    def text(self) -> str:
        """The file: JSON with a checksum of itself."""
        body = {"format": FORMAT, **asdict(self)}
        return json.dumps({**body, "sha256": digest(body)})

    @staticmethod
    def of(text: str | bytes) -> Manifest:
        """What `text` gave. Raises Damaged if it is not as it was written, OtherFormat if it is another format's."""
        try:
            body = json.loads(text)
            written = body.pop("sha256", None)
            form = str(body.pop("format"))
        except (ValueError, AttributeError, KeyError) as error:
            raise Damaged(f"{MANIFEST} cannot be read ({type(error).__name__})") from None
        if form != FORMAT:
            raise OtherFormat(form)
        if written != digest({"format": form, **body}):
            raise Damaged(f"{MANIFEST} does not have its checksum any more")
        body["files"] = [FileFacts(**one) for one in body["files"]]
        return Manifest(**{field.name: body[field.name] for field in fields(Manifest)})


class OtherFormat(Exception):
    """A manifest of another format, which the text names."""


def digest(body: dict[str, Any]) -> str:
    """Hex sha256 of JSON values, however their keys are ordered."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
