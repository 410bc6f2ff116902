"""The worst group and F1, where the protocol of a dataset asks for them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from data_pipelines.sample import Sample
from eval.datasets.wds import Wds
from eval.embeddings.split import EmbeddedSplit
from eval.tasks.zero_shot import ZeroShot
from eval.tasks.zero_shot_groups import ZeroShotGroups
from vlp.models.release import Release

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
REGIONS = [0, 0, 0, 1, 1, 1, 1, 5, 5, 0, 1, 0]


def npy(*values: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample], write_wds: Callable[..., Path]) -> str:
    rows = [
        {"png": sample.image, "cls": str(label).encode(), "npy": npy(region, 2016)}
        for sample, label, region in zip(samples, LABELS, REGIONS, strict=False)
    ]
    return str(write_wds(tmp_path_factory.mktemp("wds") / "fmow", rows))


def test_the_worst_region_is_that_of_a_count_by_hand(release: Release, root: str) -> None:
    dataset = Wds(root=root, columns=("region", "year"), groups="region", except_groups=(5,))
    split = EmbeddedSplit(release, dataset)
    task = ZeroShotGroups()
    assert task.unfit(split) == ""
    hits = ZeroShot().measure(split)["class/acc1"].per_query
    regions = np.array(REGIONS)
    worst = task.measure(split)["class/acc1_worst_group"]
    assert worst.value == pytest.approx(min(hits[regions == region].mean() for region in (0, 1)))
    assert worst.queries == 10


def test_f1_is_that_of_the_predictions(release: Release, root: str) -> None:
    split = EmbeddedSplit(release, Wds(root=root, metric="f1_macro"))
    result = ZeroShotGroups().measure(split)
    assert list(result) == ["class/f1_macro"]
    said = ZeroShot().measure(split)["class/acc1"].detail["predicted"]
    assert result["class/f1_macro"].value == pytest.approx(f1_score(LABELS, said, average="macro", zero_division=0))


def test_a_dataset_without_groups_is_left_out(release: Release, root: str) -> None:
    assert ZeroShotGroups().unfit(EmbeddedSplit(release, Wds(root=root))) == "its protocol names no groups"
