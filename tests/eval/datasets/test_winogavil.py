"""WinoGAViL: candidates become samples that know their item, its cue, and whether they belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from data_pipelines.sample import Sample
from eval.datasets.winogavil import WinoGaViL
from vlp.errors import UserError

Read = Callable[..., list[Sample]]


def save(folder: Path, drawn: list[Sample], associations: list[list[str]]) -> str:
    names = [["fox", "cat", "cup"], ["sun", "sea"]]
    pictures = [[{"bytes": s.image, "path": None} for s in some] for some in (drawn[:3], drawn[3:5])]
    rows: dict[str, Any] = {
        "cue": ["Owl", "warm"],
        "candidates": names,
        "candidate_images": pictures,
        "associations": associations,
    }
    text = datasets.Value("string")
    features = datasets.Features(
        {"cue": text, "candidates": [text], "candidate_images": [datasets.Image()], "associations": [text]}
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder))
    return str(folder)


def test_candidates_become_samples(tmp_path: Path, read: Read, drawn: list[Sample]) -> None:
    samples = read(WinoGaViL(root=save(tmp_path / "w", drawn, [["cat", "fox"], ["sun"]])))
    assert [s.image for s in samples] == [s.image for s in drawn[:5]]
    assert [s.metadata["item"] for s in samples] == ["0", "0", "0", "1", "1"]
    assert [s.metadata["associated"] for s in samples] == [True, True, False, True, False]
    assert samples[4].metadata["cue"] == "warm"


def test_what_is_none_is_one_sentence(tmp_path: Path, read: Read, drawn: list[Sample]) -> None:
    with pytest.raises(UserError, match=r"no WinoGAViL in .*save_to_disk"):
        read(WinoGaViL(root=str(tmp_path)))
    with pytest.raises(UserError, match=r"row 1 of .* is no item of WinoGAViL \(its cue: warm\)"):
        read(WinoGaViL(root=save(tmp_path / "w", drawn, [["cat"], []])))
