"""Zero-shot without captions: classes by folder, .cls, column or field, by name or number, with lists and templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.datasets import Protocol
from eval.datasets.shards import Shards
from eval.datasets.wds import Wds
from eval.embeddings.split import EmbeddedSplit
from eval.run import main
from eval.tasks.zero_shot import ZeroShot
from vlp.errors import UserError
from vlp.models.release import Release

NAMES = ["circle", "square"]


def by_hand(release: Release, split: EmbeddedSplit, texts: list[list[str]], labels: list[int]) -> float:
    """Accuracy by the definition, one class at a time."""
    vectors = []
    for prompts in texts:
        each = np.asarray(release.embed_texts(prompts))
        mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    return float(((split.image @ np.stack(vectors).T).argmax(axis=1) == np.array(labels)).mean())


@pytest.fixture(scope="module")
def labels(samples: list[Sample]) -> list[int]:
    return [NAMES.index(sample.metadata["subgroup"]) for sample in samples]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> Path:
    root = tmp_path_factory.mktemp("folders") / "shapes"
    for sample in samples:
        path = root / sample.metadata["subgroup"] / f"{sample.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    return root


def test_class_folders_are_a_dataset(
    model_folder: Path, release: Release, folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.toml").write_text('templates = ["my {}", "{}!"]')
    asked = [str(model_folder), str(folders), "--templates", str(tmp_path / "my.toml")]
    assert main([*asked, "--out", str(tmp_path / "r")]) == 0
    tree = json.loads((tmp_path / "r" / "report.json").read_text())
    from eval.configuration import opened

    split = EmbeddedSplit(release, opened(str(folders)))
    expected = by_hand(release, split, [[f"my {n}", f"{n}!"] for n in NAMES], [0] * 12 + [1] * 12)
    assert tree["metrics"]["shapes/class/acc1"] == pytest.approx(expected, abs=1e-6)
    assert len(tree["data"]["shapes"]["sha256"]) == 64
    assert "left out on shapes: retrieval, because it has no captions" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["cls", "column", "numbers"])
def test_numbers_are_those_of_a_list(
    kind: str, release: Release, samples: list[Sample], *, labels: list[int], write: Callable[..., Path], tmp_path: Path
) -> None:
    """The .cls member that readers put into the record, a field of names, and a field of numbers."""
    field = {"cls": "cls", "column": "shape", "numbers": "shape"}[kind]
    values = [NAMES[n] if kind == "column" else n for n in labels]
    silent = [replace(s, captions={}, metadata={field: v}) for s, v in zip(samples, values, strict=True)]
    folder = write(tmp_path / "s", silent)
    (tmp_path / "names.txt").write_text("circle\tdisc\tring\nsquare\n")
    split = EmbeddedSplit(release, Shards(root=str(folder), label="" if kind == "cls" else "shape"))
    task = ZeroShot(classes=str(tmp_path / "names.txt"), templates="bare")
    found = task.measure(split)
    assert next(iter(found)) == f"{field}/acc1"
    expected = by_hand(release, split, [["circle", "disc", "ring"], ["square"]], labels)
    assert found[f"{field}/acc1"].value == pytest.approx(expected)


def test_a_cls_member_is_a_class(
    release: Release, samples: list[Sample], labels: list[int], write_wds: Callable[..., Path], tmp_path: Path
) -> None:
    """The same tars as shards and as CLIP_benchmark's layout."""
    rows = [{"png": s.image, "cls": str(n).encode()} for s, n in zip(samples, labels, strict=True)]
    root = write_wds(tmp_path / "w", rows, per_tar=len(rows))
    (tmp_path / "names.txt").write_text("cat\ndog\ncow\n")
    plain = EmbeddedSplit(release, str(root / "test"))
    assert ZeroShot().unfit(plain) == 'it has numbers in the field "cls": name them by --classes FILE'
    own = EmbeddedSplit(release, Wds(root=str(root)))
    value = ZeroShot(classes=str(tmp_path / "names.txt"), templates="bare").measure(plain)["cls/acc1"].value
    assert ZeroShot(templates="bare").measure(own)["class/acc1"].value == value
    photo = ZeroShot().measure(own)["class/acc1"].value  # by the dataset's own templates
    assert photo == by_hand(release, own, [[f"a photo of a {n}.", f"a {n}"] for n in ("cat", "dog", "cow")], labels)


def test_lists_that_do_not_fit_are_one_sentence(
    release: Release, shards: Path, samples: list[Sample], write_wds: Callable[..., Path], tmp_path: Path
) -> None:
    split = EmbeddedSplit(release, str(shards))
    (tmp_path / "two.txt").write_text("circle\ntriangle\n")
    with pytest.raises(
        UserError, match=r"has the class 'square' in \"subgroup\" of .*, which is none of the 2 classes"
    ):
        ZeroShot(classes=str(tmp_path / "two.txt")).measure(split)
    root = write_wds(tmp_path / "w", [{"png": s.image, "cls": b"1"} for s in samples[:3]])
    with pytest.raises(UserError, match=r"two.txt has 2 classes, but .*w has 3: give a list in the order of"):
        ZeroShot(classes=str(tmp_path / "two.txt")).measure(EmbeddedSplit(release, Wds(root=str(root))))


def test_two_classes_of_one_name_stay_two() -> None:
    protocol = Protocol(classes=("missile", "missile"))
    assert protocol.labels == ("missile", "missile (1)")
