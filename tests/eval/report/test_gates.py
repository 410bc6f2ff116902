"""Bounds of metrics, and the report in the keys of clip-benchmark."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.configuration import read
from eval.report import clip_benchmark
from eval.report.gates import unmet
from eval.run import evaluate, main
from vlp.errors import UserError
from vlp.models.release import Release

ACC = "shapes/subgroup/acc1"


@pytest.fixture(scope="module")
def tree(release: Release, shards: Path) -> dict:
    return evaluate(release, read(data=[str(shards)]))


def with_value(tree: dict, value: float, better: str = "higher") -> dict:
    return {**tree, "metrics": {ACC: value}, "better": {ACC: better}}


def test_docstring_examples() -> None:
    assert doctest.testmod(clip_benchmark).failed == 0


def test_bounds_from_above(tree: dict) -> None:
    assert unmet(with_value(tree, 0.5), [], [f"{ACC}=0.5"]) == []
    assert unmet(with_value(tree, 0.6), [], [f"{ACC}=0.5"]) == [f"{ACC} is 0.6000, but at most 0.5 was asked for"]
    assert unmet(with_value(tree, 0.6, "lower"), [f"{ACC}=0.5"], [f"{ACC}=0.7"]) == [
        f"{ACC} is 0.6000, but at most 0.5 was asked for"
    ]


def test_what_is_no_number_keeps_no_bound(tree: dict) -> None:
    nan = with_value(tree, float("nan"))
    assert len(unmet(nan, [f"{ACC}=0"], [f"{ACC}=1"])) == 2
    for wrong in (f"{ACC}=nan", ACC, f"{ACC}=", "=1="):
        with pytest.raises(UserError, match=r"should be metric=value|no metric is called"):
            unmet(tree, [], [wrong])


def test_the_exit_status_is_for_ci(model_folder: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [str(model_folder), str(shards), "--ks", "24"]  # of as many candidates: always 1
    metric = "shapes/en/text_to_image/recall@24"
    assert main([*asked, "--at-most", f"{metric}=0.99", "--at-least", f"{metric}=1"]) == 1
    assert capsys.readouterr().err.count(f"not met: {metric} is 1.0000, but at most 0.99") == 1
    assert main([*asked, "--at-most", f"{metric}=1"]) == 0


def test_rows_of_clip_benchmark(tree: dict) -> None:
    rows = clip_benchmark.rows({**tree, "model": {**tree["model"], "name": "ViT-B-32:laion2b_s34b_b79k"}})
    assert [(row["task"], row["language"]) for row in rows] == [
        ("zeroshot_retrieval", "en"),
        ("zeroshot_retrieval", "zh"),
        ("zeroshot_classification", "en"),
    ]
    assert {(row["dataset"], row["model"], row["pretrained"]) for row in rows} == {
        ("shapes", "ViT-B-32", "laion2b_s34b_b79k")
    }
    assert rows[1]["metrics"]["image_retrieval_recall@5"] == tree["metrics"]["shapes/zh/text_to_image/recall@5"]
    assert rows[1]["metrics"]["text_retrieval_recall@5"] == tree["metrics"]["shapes/zh/image_to_text/recall@5"]
    assert set(rows[2]["metrics"]) == {"acc1", "mean_per_class_recall"}  # of two classes there is no acc5
    assert sum(len(row["metrics"]) for row in rows) == len(tree["metrics"])


def test_json_goes_where_it_is_asked_for(
    model_folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(model_folder), str(shards)]
    assert main([*asked, "--json", "-"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["format"] == "vlp-report-1"
    assert str(shards) in json.loads(out)["command"]
    assert main([*asked, "--json", str(tmp_path / "all.json"), "--format", "clip-benchmark"]) == 0
    assert len(json.loads((tmp_path / "all.json").read_text())) == 3
    pattern = str(tmp_path / "{dataset}_{task}_{language}.json")
    assert main([*asked, "--json", pattern, "--format", "clip-benchmark"]) == 0
    row = json.loads((tmp_path / "shapes_zeroshot_retrieval_zh.json").read_text())
    assert (row["dataset"], row["task"], row["language"]) == ("shapes", "zeroshot_retrieval", "zh")


@pytest.mark.slow
def test_ranks_of_torchrun_give_the_report_of_one_process(model_folder: Path, shards: Path, tmp_path: Path) -> None:
    """Both exit with the status of the bound, one of them writes, and every number is that of one process."""
    rest = [
        str(model_folder),
        str(shards),
        "--no-cache",
        "--at-most",
        "shapes/en/text_to_image/recall@24=0.5",
        "--ks",
        "24",
    ]
    assert main([*rest, "--out", str(tmp_path / "one")]) == 1
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "vlp.cli", "eval", *rest, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, timeout=240, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.count("written: ") == done.stderr.count("not met: ") == 1
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    differ = {key for key in one if one[key] != two[key]}
    assert differ <= {"written", "command", "machine"}
    assert (tmp_path / "one" / "per_query.parquet").read_bytes() == (
        tmp_path / "two" / "per_query.parquet"
    ).read_bytes()
