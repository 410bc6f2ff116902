"""SugarCrepe: one false caption each, pictures of COCO that come again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.sample import Sample
from eval.datasets.sugarcrepe import COUNTS, SugarCrepe
from vlp.errors import UserError


def test_entries_become_samples(
    tmp_path: Path,
    write_tree: Callable[[Path, Any], Path],
    write_pictures: Callable[[Path, list[str]], None],
    read: Callable[..., list[Sample]],
    drawn: list[Sample],
) -> None:
    entry = {"filename": "1.jpg", "caption": "A red cup. ", "negative_caption": "A blue cup."}
    path = write_tree(tmp_path / "data" / "replace_att.json", {"0": entry, "5": entry})
    write_pictures(tmp_path / "val2017", ["1.jpg"])
    dataset = SugarCrepe(root=str(tmp_path), part="replace_att", count=2)
    samples = read(dataset)
    assert [s.key for s in samples] == ["replace_att_0", "replace_att_5"]
    assert [(s.text, s.metadata["negatives"]) for s in samples] == [("A red cup.", ["A blue cup."])] * 2
    assert [s.image for s in samples] == [drawn[0].image] * 2
    assert dataset.protocol.expected == COUNTS["replace_att"] == 788
    assert SugarCrepe(part="swap_obj").protocol.expected is None
    with pytest.raises(UserError, match="has 2 samples, but 788 are expected"):
        read(SugarCrepe(root=str(tmp_path), part="replace_att"))
    with pytest.raises(
        UserError, match=r"no SugarCrepe in .*: expected add_att.json or data/add_att.json; get it from"
    ):
        read(SugarCrepe(root=str(tmp_path)))
    (tmp_path / "val2017" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 1 pictures that .* names are not there"):
        read(dataset)
    path.write_text("[]")
    with pytest.raises(UserError, match="is no file of SugarCrepe"):
        read(dataset)
