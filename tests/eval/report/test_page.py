"""report.html: every word and number comes from the tree and the run's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.configuration import read
from eval.report import units
from eval.report.page import report_page
from eval.run import evaluate
from vlp.models.release import Release

WORDS = {
    "val/en/r1": {"label": ["English", "there"], "measure": "R@1", "unit": "share", "primary": True},
    "val/en/r5": {"label": ["English", "there"], "measure": "R@5", "unit": "share", "primary": False},
    "val/loudness": {"label": ["of the voice"], "measure": "sones", "unit": "score", "primary": True},
}


@pytest.fixture
def tree(release: Release, shards: Path) -> dict:
    return evaluate(release, read(data=[str(shards)]))


def test_numbers_of_the_page_are_those_of_the_tree(tree: dict, tmp_path: Path) -> None:
    page = report_page(tree, run=tmp_path)
    for name, value in tree["metrics"].items():
        assert f"<em>{tree['measures'][name]}</em><b>{100 * value:.1f}</b>" in page
    for label in ("English, picture → caption", "Chinese, caption → picture", "zero-shot by subgroup"):
        assert page.count(f'<th scope="row">{label}<small>') == 1
    assert page.count("R@K: the share of queries") == 1
    assert page.count('class="bar"') == len(tree["metrics"])


def test_the_headline_is_the_first_sentence_that_a_task_gives(tree: dict, tmp_path: Path) -> None:
    name = "shapes/en/text_to_image/recall@1"
    tree["metrics"][name], tree["chance"][name] = 0.5, 0.01
    page = report_page(tree, run=tmp_path)
    assert "it picks the right one of 24 pictures first, <em>50 %</em> of the time." in page
    assert "That is 50 times better than guessing (English, caption → picture, shapes)." in page
    tree["chance"][name] = 0.4
    assert "Guessing would score 40 % (English," in report_page(tree, run=tmp_path)
    tree["headlines"] = dict.fromkeys(tree["headlines"], "")
    assert "<h1>" in report_page(tree, run=tmp_path)
    tree["headlines"]["shapes/subgroup/acc1"] = "{value}, says the task, of {candidates}"
    assert f"<em>{100 * tree['metrics']['shapes/subgroup/acc1']:.0f} %</em>, says the task, of 2" in report_page(
        tree, run=tmp_path
    )


def test_what_a_split_asks_stands_beside_its_name(tree: dict, tmp_path: Path) -> None:
    tree["data"]["shapes"]["asks"] = "Shapes that nobody has drawn <before>."
    assert "24 pictures. Shapes that nobody has drawn &lt;before&gt;." in report_page(tree, run=tmp_path)


def test_curves_of_a_training_are_those_that_its_tasks_call_primary(tree: dict, tmp_path: Path) -> None:
    tree["train"] = {"samples": 300, "seed": 4}
    rows = [{"samples": 100 * i, "loss": 5 - i, **dict.fromkeys(WORDS, 0.1 * i), "val/other": 0.5} for i in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert report_page(tree, run=tmp_path).count("<polyline") == 1  # nobody says how the others are called
    (tmp_path / "validation.json").write_text(json.dumps(WORDS))
    page = report_page(tree, run=tmp_path)
    assert page.count("<polyline") == 3
    assert "R@1 on val in %, over the pairs seen." in page
    assert "sones on val, over the pairs seen." in page
    assert "R@5 on" not in page
    assert "0 (bootstrap), 4 (training)" in page


def test_a_metric_without_chance_or_ends_has_neither_bar_nor_chance(tree: dict, tmp_path: Path) -> None:
    name = "shapes/subgroup/acc1"
    before = report_page(tree, run=tmp_path)
    tree["units"][name], tree["chance"][name], tree["metrics"][name] = "score", None, 12.5
    page = report_page(tree, run=tmp_path)
    assert page.count('class="bar"') == before.count('class="bar"') - 1
    assert page.count("chance ") == before.count("chance ") - 1
    assert "<b>12.5</b>" in page


@pytest.mark.parametrize(
    "value, unit, text",
    [(0.234, "share", "23 %"), (0.034, "share", "3.4 %"), (1234.5, "count", "1,234.5"), (0.125, "score", "0.125")],
)
def test_units_in_sentences(value: float, unit: str, text: str) -> None:
    assert units.in_a_sentence(value, unit) == text
