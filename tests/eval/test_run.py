"""`vlp eval`: the report's parts agree with each other and with the tasks; wishes that are not met fail the command."""

from __future__ import annotations

import doctest
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval import configuration
from eval.configuration import read, split_name
from eval.embeddings.split import EmbeddedSplit
from eval.report.assemble import MAPS, training_record
from eval.run import evaluate, main, unmet
from eval.tasks.retrieval import Retrieval
from vlp.errors import UserError
from vlp.models.release import Release


@pytest.fixture(scope="module")
def tree(release: Release, shards: Path) -> dict:
    return evaluate(release, read(data=[str(shards)]))


def test_docstring_examples() -> None:
    assert doctest.testmod(configuration).failed == 0


def test_every_metric_has_all_that_makes_it_believable(tree: dict, release: Release, shards: Path) -> None:
    names = set(tree["metrics"])
    assert {
        "shapes/en/image_to_text/recall@1",
        "shapes/zh/text_to_image/recall@10",
        "shapes/subgroup/acc1",
        "shapes/subgroup/mean_per_class_recall",
    } <= names
    for beside in ("intervals", "candidates", "queries", "chance", *MAPS):
        assert set(tree[beside]) == names
    for name, value in tree["metrics"].items():
        low, high = tree["intervals"][name]
        assert 0 <= low <= value <= high <= 1
    expected = Retrieval().measure(EmbeddedSplit(release, str(shards)))
    assert tree["metrics"]["shapes/zh/image_to_text/recall@5"] == pytest.approx(
        expected["zh/image_to_text/recall@5"].value, abs=1e-6
    )


def test_the_conditions_are_written_down(tree: dict, release: Release) -> None:
    assert tree["model"]["weights_sha256"] == release.id
    assert tree["model"]["precision"] == "float32"
    assert tree["model"]["preprocessing"]["size"] == 32
    assert len(tree["data"]["shapes"]["sha256"]) == 64
    assert (tree["data"]["shapes"]["samples"], tree["seed"]) == (24, 0)
    assert {"python", "torch", "numpy", "vlp"} <= set(tree["versions"])
    assert [task["name"] for task in tree["tasks"]["shapes"]] == ["retrieval", "zero_shot"]
    json.dumps(tree)


def test_splits_get_names_of_their_own() -> None:
    assert split_name("a/test", {"test": 0}) == "test_2"
    assert split_name("a/test", {"test": 0, "test_2": 0}) == "test_3"


def test_wishes(tree: dict) -> None:
    name = "shapes/subgroup/acc5"  # of two classes: always 1
    assert unmet(tree, [f"{name}=1"]) == []
    assert unmet(tree, [f"{name}=1.01"]) == [f"{name} is 1.0000, but at least 1.01 was asked for"]
    with pytest.raises(UserError, match='did you mean "shapes/subgroup/acc5"'):
        unmet(tree, ["shapes/subgroup/ac5=1"])
    with pytest.raises(UserError, match="should be metric=value"):
        unmet(tree, [name])


def test_the_command_shows_writes_and_fails_as_asked(
    model_folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(model_folder), str(shards), "--out", str(tmp_path), "--at-least", "shapes/subgroup/acc1=1.01"]
    assert main(asked) == 1
    told = capsys.readouterr()
    assert "en/image_to_text/recall@10" in told.out
    assert "at least 1.01" in told.err
    assert json.loads((tmp_path / "report.json").read_text())["format"] == "vlp-report-1"
    assert_self_contained((tmp_path / "report.html").read_text())


def assert_self_contained(html: str) -> None:
    """Tags are balanced, and nothing points out of the page."""
    open_tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            assert all(value.startswith("data:") for key, value in attrs if key in ("src", "href"))
            if tag not in ("meta", "img", "line", "polyline", "br"):
                open_tags.append(tag)

        def handle_startendtag(self, tag: str, attrs: list) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Reader().feed(html)
    assert open_tags == []
    assert not re.search(r"https?://|@import|url\(", html)


def test_only_the_record_of_this_model_is_taken_for_its_training(tmp_path: Path) -> None:
    assert training_record(tmp_path, "a") == {}
    (tmp_path / "train.json").write_text('{"model_id": "a", "samples": 3}')
    assert training_record(tmp_path, "a")["samples"] == 3
    assert training_record(tmp_path, "b") == {}
