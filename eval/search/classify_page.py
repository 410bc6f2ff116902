"""The page of `vlp classify`: how many pictures each class has, and those that are surest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.search.gallery import Gallery
from eval.search.page import data_uri, thumbnail_uri
from eval.search.parts import thumbnails
from vlp.errors import UserError
from vlp.legible import plain
from vlp.page import render

SIDE = 96  # pixels of pictures that are read from shards


@dataclass(frozen=True)
class Example:
    """A picture of a class, with its probability."""

    score: float
    key: str
    shard: str
    id: int


def pictures(where: Path, examples: Sequence[Example], *, trust: bool = False) -> dict[int, str]:
    """The pictures of examples as data: URIs by id, from an index or from their shards. Raises UserError."""
    if (where / "index.toml").is_file():
        hits = Gallery.open(where, trust=trust).hits([one.id for one in examples], [one.score for one in examples])
        return {one.id: thumbnail_uri(hit) for one, hit in zip(examples, hits, strict=True)}
    if not all(one.shard for one in examples):
        raise UserError(f"--html wants pictures, but the rows of {where} do not say where theirs are: leave it out")
    small = thumbnails([one.key for one in examples], [one.shard for one in examples], SIDE)
    return {one.id: data_uri(picture) for one, picture in zip(examples, small, strict=True)}


def classify_page(title: str, rows: Sequence[dict[str, Any]], uris: dict[int, str]) -> str:
    """A page of classes: name, number, share, score, and examples with their pictures."""
    shown = [
        {
            **row,
            "name": plain(row["name"]),
            "examples": [
                {"uri": uris.get(one.id, ""), "score": f"{one.score:.2f}", "title": plain(one.key)}
                for one in row["examples"]
            ],
        }
        for row in rows
    ]
    return render(Path(__file__).with_name("classify_page.html"), title=title, rows=shown)
