"""Collections: what is there is measured, what is missing is named, and only a whole one is averaged."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets as hf
import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.collection import BOTH_WAYS
from eval.configuration import known_presets, read
from eval.datasets.wds import Wds
from eval.datasets.winogavil import WinoGaViL
from eval.run import main
from vlp.errors import UserError

PRESET = """
collection = "Two of them"

[datasets.one]
name = "wds"
root = "wds_one"
metric = "mean_per_class_recall"

[datasets.two]
name = "wds"
root = "wds_two"
%s

[tasks.zero_shot]
name = "zero_shot"
"""


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    (tmp_path / "two.toml").write_text(PRESET % "")
    return tmp_path / "two.toml"


@pytest.fixture
def place(tmp_path: Path, samples: list[Sample], write_wds: Callable[..., Path]) -> Callable[[str], Path]:
    """Write a dataset of this name into the folder of all."""

    def write(name: str) -> Path:
        some = samples[: 5 if name == "wds_one" else 9]
        labels = [0, 0, 0, 1, 2, 1, 1, 2, 0]
        rows = [{"png": s.image, "cls": str(label).encode()} for s, label in zip(some, labels, strict=False)]
        return write_wds(tmp_path / "all" / name, rows)

    return write


def tree_of(model: Path, preset: Path, root: Path, *flags: str) -> dict:
    out = root.parent / "report"
    assert main([str(model), str(preset), "--root", str(root), "--out", str(out), *flags]) == 0
    return json.loads((out / "report.json").read_text())


def test_a_whole_collection_is_averaged(
    model_folder: Path, preset: Path, place: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = place("wds_one").parent
    place("wds_two")
    tree = tree_of(model_folder, preset, root)
    metrics, about = tree["metrics"], tree["collection"]
    expected = [metrics["one/class/mean_per_class_recall"], metrics["two/class/acc1"]]
    assert list(about["values"].values()) == pytest.approx(expected, abs=1e-6)
    assert about["average"] == pytest.approx(np.mean(expected), abs=1e-6)
    low, high = about["interval"]
    assert low < about["average"] < high
    assert (about["missing"], about["without"], about["why"]) == ({}, {}, "")
    assert f"Two of them: {about['average']:.4f}" in capsys.readouterr().out


def test_a_part_of_a_collection_is_measured_and_not_averaged(
    model_folder: Path, preset: Path, place: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = place("wds_two").parent
    tree = tree_of(model_folder, preset, root)
    assert list(tree["data"]) == ["two"]
    assert tree["collection"]["average"] is None
    assert "wds_one/test/nshards.txt: get the dataset from https:" in tree["collection"]["missing"]["one"]
    out = " ".join(capsys.readouterr().out.split())
    assert "no average of Two of them: 1 of 2 datasets were measured, and only a whole collection is averaged" in out
    assert "not there: one" in out


def test_a_dataset_whose_metric_nobody_measures_is_said(
    model_folder: Path, preset: Path, place: Callable[[str], Path]
) -> None:
    root = place("wds_one").parent
    place("wds_two")
    preset.write_text(PRESET % 'metric = "jaccard_score"')
    about = tree_of(model_folder, preset, root)["collection"]
    assert about["without"] == {"two": "no task here measures jaccard_score"}
    assert about["average"] is None


def test_nothing_at_all_is_one_sentence(model_folder: Path, preset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing of Two of them is there; one, for one: there is no .*wds_one"):
        main([str(model_folder), str(preset), "--root", str(tmp_path)])


def test_a_folder_is_not_taken_for_every_dataset_of_a_collection(
    model_folder: Path, preset: Path, place: Callable[[str], Path]
) -> None:
    with pytest.raises(UserError, match="nothing of Two of them is there"):
        main([str(model_folder), str(preset), "--root", str(place("wds_one"))])


@pytest.mark.parametrize("name, count", [("datacomp", 38), ("vtab", 35)])
def test_collections_have_all_their_datasets(name: str, count: int) -> None:
    config = read([name], folder="")
    assert name in known_presets()
    assert len(config.datasets) == count
    assert len({dataset.root for dataset in config.datasets.values()}) == count
    assert config.collection
    with pytest.raises(UserError, match=f"nothing of {config.collection.replace('+', '.')} is there"):
        main(["no_model", name, "--root", "/nowhere"])


def fill(root: Path, name: str, samples: list[Sample], write_wds: Callable[..., Path]) -> None:
    """A tiny version of every dataset of a collection, in its layout."""
    for number, dataset in enumerate(read([name]).datasets.values()):
        some = samples[number % 8 : number % 8 + 6]
        if isinstance(dataset, WinoGaViL):
            row = {
                "cue": ["red"],
                "candidates": [[s.key for s in samples[:10]]],
                "candidate_images": [[{"bytes": s.image, "path": None} for s in samples[:10]]],
                "associations": [[s.key for s in samples[:3]]],
            }
            text = hf.Value("string")
            kinds = {"cue": text, "candidates": [text], "candidate_images": [hf.Image()], "associations": [text]}
            hf.Dataset.from_dict(row, features=hf.Features(kinds)).save_to_disk(str(root / dataset.root))
            continue
        assert isinstance(dataset, Wds)
        if dataset.metric == BOTH_WAYS:
            rows = [{"png": s.image, "txt": s.captions["en"].encode()} for s in some]
        else:
            rows = [{"png": s.image, "cls": str(i % 3).encode()} for i, s in enumerate(some)]
        if dataset.columns:
            rows = [{**row, "npy": npy([i % 2] * len(dataset.columns))} for i, row in enumerate(rows)]
        write_wds(root / dataset.root, rows, kind="retrieval" if dataset.metric == BOTH_WAYS else "", names=6)


def npy(values: list[int]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name, count", [("datacomp", 38), ("vtab", 35)])
def test_a_whole_collection_of_the_presets_has_an_average(
    name: str, count: int, model_folder: Path, samples: list[Sample], *, write_wds: Callable[..., Path], tmp_path: Path
) -> None:
    """Every dataset has the metric that stands for it: the layouts, columns and groups of the presets fit the tasks."""
    fill(tmp_path / "all", name, samples, write_wds)
    about = tree_of(model_folder, Path(name), tmp_path / "all", "--skip-damaged", "--no-cache")["collection"]
    assert (about["missing"], about["without"]) == ({}, {})
    assert len(about["values"]) == count
    assert about["average"] == pytest.approx(np.mean(list(about["values"].values())), abs=1e-6)
