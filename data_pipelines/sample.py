"""One image with its captions, as it lies in a shard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.captions import by_language, texts_at

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
    txt: str = ""
    """the .txt of a sample that was read from a shard; empty: there was none, or the sample is new"""

    @classmethod
    def of_record(
        cls, key: str, image: bytes, image_format: str, record: Mapping[str, Any], *, language: str = "en"
    ) -> Sample:
        """The sample that a record (its .json, with the .txt under "txt") tells of.

        Captions that do not say their language are in `language`. Everything but the table of captions and the .txt
        stays in the metadata, and all captions of a language that has several.
        """
        every = by_language(record, language)
        several = {code: texts for code, texts in every.items() if len(texts) > 1}
        taken = {"txt", *(["captions"] if isinstance(record.get("captions"), Mapping) else [])}
        rest = {name: value for name, value in record.items() if name not in taken}
        if several and not isinstance(rest.get("all_captions"), Mapping):
            rest["all_captions"] = several
        return cls(
            key, image, image_format, {code: texts[0] for code, texts in every.items()}, rest, record.get("txt", "")
        )

    @property
    def text(self) -> str:
        """The first caption, which is the one that readers of .txt files see; "" if there is none."""
        return next(iter(self.captions.values()), "")

    @property
    def sayable(self) -> bool:
        """Whether its captions are text (no NUL), and all that is known of it can be written as UTF-8."""
        every = self.metadata.get("all_captions")
        texts = (
            [*self.captions.values(), *(text for some in every.values() for text in some)]
            if every
            else (self.captions.values())
        )
        try:
            json.dumps([self.captions, self.metadata], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return False
        return not any("\0" in text for text in texts)

    def said(self, path: str) -> list[str]:
        """Every text at `path`, as training draws from: a language, "txt", or a field such as tags.en, first one first.

        >>> Sample("a", b"", "png", {"en": "cat"}, {"notes": {"long": "a black cat"}}, txt="the cat").said("notes.long")
        ['a black cat']
        """
        texts = self.metadata.get("all_captions") or {}
        captions = {language: texts.get(language) or caption for language, caption in self.captions.items()}
        return texts_at({"txt": self.txt or self.text, "captions": captions, **self.metadata}, path)

    def members(self) -> tuple[tuple[str, bytes], ...]:
        """(name, bytes) of the files of this sample in a tar, image first."""
        record = {"captions": self.captions, **self.metadata}
        compact = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        return (
            (f"{self.key}.{self.image_format}", self.image),
            (f"{self.key}.txt", self.text.encode()),
            (f"{self.key}.json", compact.encode()),
        )
