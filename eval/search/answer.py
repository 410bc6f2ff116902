"""What an answer is, and how a gallery is asked: by a text, by a picture, or by several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.search.asked import Query, vectors_of
from eval.search.gallery import Gallery, Hit
from vlp.errors import UserError
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from vlp.models.release import Release


@dataclass(frozen=True)
class Answer:
    """A question and its matches."""

    text: str  # "" for a question without one
    note: str  # what a reader should know of the question: its language, what it means, its other parts
    picture: bytes  # b"" for a question without one
    hits: Sequence[Hit]


def ask(gallery: Gallery, release: Release, query: Query, **how: Any) -> Answer:
    """The matches of a query of several parts; how: fold and rerank, as Gallery.search has them. Raises UserError."""
    (vector,) = vectors_of(release, [query])
    if isinstance(vector, UserError):
        raise vector
    picture = query.image.read_bytes() if query.image is not None else b""
    hits = gallery.search(release, vector[None], query.k, where=query.where, **how)[0]
    return Answer(text=query.text, note=query.note, picture=picture, hits=hits)


def ask_text(gallery: Gallery, release: Release, text: str, k: int, *, note: str = "", where: str = "") -> Answer:
    """The K pictures nearest to a text, of those that fulfil `where`. Raises UserError for one that cannot be asked."""
    hits = gallery.search(release, np.asarray(release.embed_texts([text])), k, where=where)[0]
    return Answer(text=text, note=note, picture=b"", hits=hits)


def ask_picture(
    gallery: Gallery, release: Release, picture: bytes, k: int, *, note: str = "", where: str = ""
) -> Answer:
    """The K pictures nearest to an encoded picture, as above. Raises UserError if it cannot be decoded."""
    try:
        decoded = decode(picture, Limits())
    except Refused as error:
        raise UserError(f"{note or 'the picture'} cannot be searched for: {error}; give a PNG, JPEG or WebP") from None
    hits = gallery.search(release, np.asarray(release.embed_images([decoded])), k, where=where)[0]
    return Answer(text="", note=note, picture=picture, hits=hits)
