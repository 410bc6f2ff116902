"""Tux Paint's stamps: photos and drawings with a sentence for each in many languages. GPL: to be used, not given on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.emoji import packages
from data_pipelines.emoji.drawings import Drawing

PACKAGE = "tuxpaint-stamps-default"
CHINESE = "zh_CN.utf8="


def stamps(cache: Path) -> Iterator[Drawing]:
    """Every stamp with an English sentence, in the order of their paths."""
    root = packages.folder(PACKAGE, cache) / "usr/share/tuxpaint/stamps"
    for path in sorted(root.rglob("*.txt")):
        picture = next((p for p in (path.with_suffix(".svg"), path.with_suffix(".png")) if p.is_file()), None)
        captions = sentences(path.read_text(encoding="utf-8", errors="replace"))
        if picture is None or "en" not in captions:
            continue
        place = path.relative_to(root).with_suffix("")
        yield Drawing(
            key="tuxpaint-" + place.as_posix().replace("/", "-").replace(".", "_"),
            picture=picture,
            captions=captions,
            tags={},
            group="stamps",
            subgroup=place.parts[0],
            artist="tuxpaint",
            family="tuxpaint",
            license="GPL-2.0",
        )


def sentences(text: str) -> dict[str, str]:
    """The English sentence, which is the first line, and the Chinese one if there is one.

    >>> sentences("A paw print.\\nde.utf8=Ein Pfotenabdruck.\\nzh_CN.utf8=爪印。")
    {'en': 'a paw print', 'zh': '爪印'}
    """
    lines = text.splitlines() or [""]
    chinese = next((line.removeprefix(CHINESE) for line in lines if line.startswith(CHINESE)), "")
    english = lines[0].strip().rstrip(".")
    captions = {"en": english[:1].lower() + english[1:], "zh": chinese.strip().rstrip("。.")}
    return {language: caption for language, caption in captions.items() if caption}
