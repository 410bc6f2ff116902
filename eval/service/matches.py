"""Matches as the service answers with them."""

from __future__ import annotations

import base64
from typing import Any

from eval.search.gallery import SHOWN, Hit
from eval.search.page import data_uri
from vlp.legible import plain


def match(hit: Hit, *, pictures: bool) -> dict[str, Any]:
    """A match with the best of those that it stands for."""
    alike = [_alone(one, pictures=pictures) for one in hit.alike[:SHOWN]]
    return {**_alone(hit, pictures=pictures), "folded": len(hit.alike), "alike": alike}


def _alone(hit: Hit, *, pictures: bool) -> dict[str, Any]:
    captions = {plain(language, 20): plain(text) for language, text in hit.captions.items()}
    image = data_uri(hit.thumbnail) if pictures else ""
    return {"score": round(hit.score, 6), "key": plain(hit.key), "captions": captions, "image": image}


def knn_match(hit: Hit) -> dict[str, Any]:
    """A match as clip-retrieval's client reads it."""
    caption = hit.captions.get("en") or next(iter(hit.captions.values()), "")
    picture = base64.b64encode(hit.thumbnail).decode()
    url = plain(hit.metadata.get("url") or "", 2_000)
    return {
        "id": plain(hit.key),
        "similarity": round(hit.score, 6),
        "url": url,
        "caption": plain(caption),
        "image": picture,
    }
