"""report.json: complete for whoever reads it, and what a split asks comes from its manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.sample import Sample
from eval.configuration import read
from eval.datasets.shards import Shards
from eval.report.assemble import MAPS, is_current
from eval.run import evaluate
from vlp.models.release import Release
from vlp.record import versions


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("bundled:emoji/test_style", "Concepts that were seen in training, drawn by artists that were not."),
        ("bundled:emoji/val::bundled:emoji/test_attr", "Unseen concepts, seen artists: the split that choices are made "
         "on. Unseen combinations of a person or gesture with a skin tone."),
    ],
)  # fmt: skip
def test_the_manifest_says_what_a_split_asks(spec: str, sentence: str) -> None:
    assert Shards(root=spec).asks == sentence


def test_tars_without_a_manifest_ask_nothing(samples: list[Sample], write, tmp_path: Path) -> None:
    folder = write(tmp_path / "bare", samples)
    assert Shards(root=str(folder)).asks == ""
    (folder / "manifest.json").unlink()
    assert Shards(root=str(folder)).asks == ""


def test_a_report_of_an_earlier_version_is_not_taken_for_a_whole_one(release: Release, shards: Path) -> None:
    tree = json.loads(json.dumps(evaluate(release, read(data=[str(shards)]))))
    assert is_current(tree)
    assert tree["versions"] == versions()
    for key in MAPS:
        assert set(tree[key]) == set(tree["metrics"])
        assert not is_current({k: v for k, v in tree.items() if k != key})
    assert not is_current({**tree, "format": "vlp-report-0"})
    assert not is_current({})


def test_different_seeds_are_all_written_down(release: Release, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[tasks.a]\nname = "retrieval"\nseed = 4\n[tasks.b]\nname = "zero_shot"\n')
    assert evaluate(release, read([str(tmp_path / "p.toml")], data=[str(shards)]))["seed"] == {"a": 4, "b": 0}
