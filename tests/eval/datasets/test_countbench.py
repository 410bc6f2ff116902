"""CountBench: the number of the caption is changed in the false ones, and nothing else."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from eval.datasets import countbench
from eval.datasets.countbench import CountBench, false_counts
from vlp.errors import UserError


def test_docstring_examples() -> None:
    assert doctest.testmod(countbench).failed == 0


def test_false_counts_are_all_the_others() -> None:
    false = false_counts("Ten cats, often", 10)
    assert len(false) == len(set(false)) == 8
    assert false[0] == "two cats, often"
    assert false_counts("Often", 10) == []
    assert false_counts("eleven", 11) == []


def test_rows_become_samples(tmp_path: Path, read: Callable[..., list[Sample]], drawn: list[Sample]) -> None:
    rows = {
        "image": [{"bytes": drawn[0].image, "path": None}, None, {"bytes": drawn[1].image, "path": None}],
        "text": ["Two cups", "Four cups", "cups without a number"],
        "number": [2, 4, 5],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "number": datasets.Value("int64")}
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "c"))
    skip = Ledger()
    (sample,) = read(CountBench(root=str(tmp_path / "c")), skip=skip)
    assert (sample.text, sample.image, sample.metadata["number"]) == ("Two cups", drawn[0].image, 2)
    assert sample.metadata["negatives"][:2] == ["three cups", "four cups"]
    assert skip.by_reason() == {"missing picture": 1, "undecodable caption": 1}
    with pytest.raises(UserError, match=r"no CountBench in .*save_to_disk"):
        read(CountBench(root=str(tmp_path)))
