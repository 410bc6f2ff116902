"""Winoground: two samples an item, each with the other's caption as its false one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.sample import Sample
from eval.datasets.winoground import Winoground
from vlp.errors import UserError

ROWS = [
    {
        "id": number,
        "image_0": f"ex_{number}_img_0",
        "image_1": f"ex_{number}_img_1",
        "caption_0": f"a dog bites man {number}",
        "caption_1": f"man {number} bites a dog",
        "tag": "Object",
    }
    for number in (0, 7)
]
NAMES = [f"{row[f'image_{i}']}.png" for row in ROWS for i in (0, 1)]


def test_items_are_pairs(
    tmp_path: Path,
    write_pictures: Callable[[Path, list[str]], None],
    read: Callable[..., list[Sample]],
    drawn: list[Sample],
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write_pictures(tmp_path / "data" / "images", NAMES)
    dataset = Winoground(root=str(tmp_path), count=4)
    samples = read(dataset)
    assert [s.image for s in samples] == [s.image for s in drawn[:4]]
    assert [s.metadata["pair"] for s in samples] == ["0", "0", "7", "7"]
    assert [s.text for s in samples[2:]] == ["a dog bites man 7", "man 7 bites a dog"]
    assert [s.metadata["negatives"] for s in samples[2:]] == [["man 7 bites a dog"], ["a dog bites man 7"]]
    assert (dataset.protocol.expected, len(dataset.sha256())) == (800, 64)


def test_what_is_missing_or_cut_is_one_sentence(
    tmp_path: Path, write_pictures: Callable[[Path, list[str]], None], read: Callable[..., list[Sample]]
) -> None:
    with pytest.raises(UserError, match=r"no Winoground in .*: expected examples.jsonl or .*; get it from https:"):
        read(Winoground(root=str(tmp_path)))
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "examples.jsonl").write_text(text[:-40])
    with pytest.raises(UserError, match=r"has a line that is no JSON .*: it was cut off"):
        read(Winoground(root=str(tmp_path)))
    (tmp_path / "examples.jsonl").write_text(text)
    write_pictures(tmp_path / "images", NAMES[:3])
    with pytest.raises(UserError, match=r"1 of 4 pictures that .* names are not there, such as .*ex_7_img_1.png"):
        read(Winoground(root=str(tmp_path)))
    (tmp_path / "examples.jsonl").write_text(json.dumps({**ROWS[0], "caption_1": None}))
    with pytest.raises(UserError, match='has an entry without "caption_1"'):
        read(Winoground(root=str(tmp_path)))
