"""One image with its captions, as it lies in a shard."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.captions import found

IMAGE_FORMATS = ("png", "jpg", "webp")


@dataclass(frozen=True)
class Sample:
    """An encoded image, what is said of it, and everything else that is known."""

    key: str  # unique within its shard; no dot, no space, no slash
    image: bytes  # as it lies in the file, not decoded
    image_format: str  # one of IMAGE_FORMATS
    captions: dict[str, str]  # language ("en" when nobody says) -> first caption; never empty strings
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON values: tags, concept, group, artist, license, ...; all_captions: language -> list, where it has several"""

    @property
    def text(self) -> str:
        """The first caption, which is the one that readers of .txt files see; "" if there is none."""
        return next(iter(self.captions.values()), "")

    def said(self, path: str) -> list[str]:
        """Every caption in a language, the first one first; or every text of a field such as tags.en."""
        return found({"captions": self.captions, **self.metadata}, path)

    def members(self) -> tuple[tuple[str, bytes], ...]:
        """(name, bytes) of the files of this sample in a tar, image first."""
        record = {"captions": self.captions, **self.metadata}
        compact = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        return (
            (f"{self.key}.{self.image_format}", self.image),
            (f"{self.key}.txt", self.text.encode()),
            (f"{self.key}.json", compact.encode()),
        )
