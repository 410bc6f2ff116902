"""The pages of `vlp search`: one file each, no network, for light and dark screens."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from data_pipelines.captions import normalised
from eval.search.answer import Answer
from eval.search.gallery import Hit
from vlp.legible import plain
from vlp.page import render

ANSWERS = Path(__file__).parent / "answers.html"
LANGUAGES = 8  # of the captions of a hit that a page holds
Tree = dict[str, Any]


def data_uri(picture: bytes) -> str:
    """An encoded picture as a data: URI; "" for none."""
    kinds = {b"\x89PNG": "png", b"RIFF": "webp", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}
    kind = next((kind for start, kind in kinds.items() if picture.startswith(start)), "")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}" if kind else ""


def thumbnail_uri(hit: Hit) -> str:
    """The picture of a hit as a data: URI, read from its shard if no thumbnail was kept; "" where neither is there."""
    if hit.thumbnail or not hit.shard:
        return data_uri(hit.thumbnail)
    picture = hit.picture()
    picture.thumbnail((128, 128))
    file = BytesIO()
    picture.save(file, "webp")
    return data_uri(file.getvalue())


def shown(answer: Answer) -> Tree:
    """An answer as the template wants it; a hit whose own caption is the question is marked."""
    hits = [
        {
            "uri": thumbnail_uri(hit),
            "score": f"{hit.score:.2f}",
            "captions": [(plain(language, 20), plain(text)) for language, text in hit.captions.items()][:LANGUAGES],
            "title": " · ".join(plain(text) for text in [*list(hit.captions.values())[:LANGUAGES], hit.key]),
            "alike": len(hit.alike),
            "exact": bool(answer.text) and normalised(answer.text) in map(normalised, hit.captions.values()),
        }
        for hit in answer.hits
    ]
    return {"text": plain(answer.text), "note": plain(answer.note), "uri": data_uri(answer.picture), "hits": hits}


def search_page(answers: Sequence[Answer], title: str) -> str:
    """A page of questions with their hits."""
    return render(ANSWERS.with_name("search_page.html"), title=title, answers=[shown(answer) for answer in answers])
