"""`vlp eval`: the report's parts agree with each other and with the tasks; wishes that are not met fail the command."""

from __future__ import annotations

import doctest
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from eval import configuration
from eval.configuration import read
from eval.embeddings.split import EmbeddedSplit
from eval.report.assemble import MAPS, training_record
from eval.report.gates import unmet
from eval.run import evaluate, main
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


def test_damaged_shards_are_skipped_where_that_is_asked_for(
    model_folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shards, tmp_path / "cut")
    (tmp_path / "cut" / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:4000])
    with pytest.raises(UserError, match=r"00001.tar cannot be read to its end .* --skip-damaged"):
        main([str(model_folder), str(tmp_path / "cut")])
    assert main([str(model_folder), str(tmp_path / "cut"), "--skip-damaged", "--out", str(tmp_path / "r")]) == 0
    report = json.loads((tmp_path / "r" / "report.json").read_text())["data"]["cut"]
    assert report["samples"] + sum(report["skipped"].values()) == 24
    assert "skipped on cut: " in capsys.readouterr().out


def test_names_from_elsewhere_are_shown_and_not_obeyed(
    model_folder: Path,
    samples: list[Sample],
    write: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evil = "[/red]\x1b[2J" + "x" * 100_000
    some = [replace(s, captions={evil: "red", "en": s.text}, metadata={evil: "a", "f": [evil]}) for s in samples[:4]]
    folder = write(tmp_path / "[b]", some)
    with pytest.raises(UserError) as caught:
        main([str(model_folder), str(folder), "--label", "shap"])
    assert len(str(caught.value)) < 1000
    assert main([str(model_folder), str(folder), "--out", str(tmp_path / "r")]) == 0
    page, out = (tmp_path / "r" / "report.html").read_text(), capsys.readouterr().out
    assert "\x1b" not in page + out
    assert "[b]" in out


def test_wishes(tree: dict) -> None:
    name = "shapes/subgroup/acc1"
    value = tree["metrics"][name]
    assert unmet(tree, [f"{name}={value}"]) == []
    assert unmet(tree, [f"{name}=1.01"]) == [f"{name} is {value:.4f}, but at least 1.01 was asked for"]
    with pytest.raises(UserError, match='did you mean "shapes/subgroup/acc1"'):
        unmet(tree, ["shapes/subgroup/ac1=1"])
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


MY_TASK = '''
"""Counts letters: nothing that vlp has heard of."""

from dataclasses import dataclass

import numpy as np

from eval.metrics.bootstrap import bootstrap
from eval.tasks import Measured, Presentation, Task


@dataclass(frozen=True, kw_only=True)
class Letters(Task):
    """Letters of a caption."""

    path: str = "en"
    """which caption"""

    def unfit(self, split):
        return "" if any(s.said(self.path) for s in split.samples) else f"nobody says anything in {self.path}"

    def measure(self, split):
        counts = np.array([len(s.said(self.path)[0]) for s in split.samples], float)
        words = Presentation(("letters",), "mean", "Mean: how long a caption is.", "It says {value} letters.")
        interval = bootstrap(counts, seed=self.seed)
        measured = Measured(counts.mean(), interval, len(counts), 1, None, words, unit="count", better="lower")
        return {"letters": measured}
'''


@pytest.fixture
def my_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset with a task that is defined outside of vlp."""
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "letters.py").write_text(MY_TASK)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.toml").write_text(
        '[tasks.english]\nname = "my_lab.letters"\n[tasks.french]\nname = "my_lab.letters"\npath = "fr"\n'
    )
    return str(tmp_path / "mine.toml")


def test_a_task_that_vlp_has_never_heard_of_is_shown_in_its_own_words(
    model_folder: Path, shards: Path, my_preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(my_preset).parent
    mean = np.mean([len(sample.captions["en"]) for sample in read_samples(ShardSet.open(str(shards)))])
    asked = [str(model_folder), str(shards), my_preset, "--out", str(out)]
    assert main([*asked, "--at-least", "shapes/letters=30"]) == 0  # the fewer the better
    assert main([*asked, "--at-least", "shapes/letters=2"]) == 1
    shown = capsys.readouterr()
    assert f"shapes/letters is {mean:.4f}, but at most 2 was asked for" in shown.err
    assert f"{mean:,.1f}" in shown.out
    assert "left out on shapes: french, because nobody says anything in fr" in shown.out
    tree = json.loads((out / "report.json").read_text())
    assert tree["metrics"] == {"shapes/letters": pytest.approx(mean, abs=1e-6)}
    assert (tree["units"], tree["chance"]) == ({"shapes/letters": "count"}, {"shapes/letters": None})
    page = (out / "report.html").read_text()
    assert f"It says <em>{mean:.1f}</em> letters." in page
    assert "Mean: how long a caption is." in page
    assert 'class="bar"' not in page  # a count has no end that a bar could run to
    assert_self_contained(page)


def test_flags_go_to_the_tasks(model_folder: Path, shards: Path, tmp_path: Path) -> None:
    flags = ["--languages", "zh", "--ks", "1", "2", "--tasks.zero_shot.templates", "bare", "--seed", "3"]
    assert main([str(model_folder), str(shards), *flags, "--out", str(tmp_path)]) == 0
    tree = json.loads((tmp_path / "report.json").read_text())
    assert {name for name in tree["metrics"] if "recall@" in name} == {
        f"shapes/zh/{way}/recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 2)
    }
    assert tree["tasks"]["shapes"][1]["templates"] == "bare"
    assert tree["seed"] == 3


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--languages", "fr"), 'no captions in "fr"; it has texts in: en, zh'),
        (("--label", "colour"), 'no classes in the field "colour"'),
        (("--templates", "pictures"), 'no set of templates is called "pictures"; did you mean "picture"'),
        (("--templates", "none.toml"), "there is no file of templates none.toml"),
        (("--ks", "0"), '"tasks.retrieval.ks[0]" is 0, but it should be 1 or more'),
        (("--lables", "x"), 'no task of this evaluation has a setting "--lables"'),
        (("--data", "/no/such/shards"), "/no/such/shards"),
    ],
    ids=lambda v: v[-1] if isinstance(v, tuple) else "",
)
def test_bad_wishes_are_one_sentence(flags: tuple[str, ...], sentence: str, model_folder: Path, shards: Path) -> None:
    with pytest.raises(UserError) as caught:
        main([str(model_folder), str(shards), *flags])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_shards_or_model_it_says_what_is_missing(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="name a shard set"):
        main([str(model_folder)])
    with pytest.raises(UserError, match="name a model before the flags"):
        main(["--device", "cpu"])
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--languages", "--label", "--templates", "--at-least", "--out", "--device", "--seed"):
        assert flag in text


def test_a_default_that_does_not_fit_is_left_out_and_said(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    plain = write(tmp_path / "plain", [replace(sample, metadata={}) for sample in samples])
    tree = evaluate(release, read(data=[str(plain)]))
    assert not [name for name in tree["metrics"] if "acc" in name]
    assert [task["left_out"] for task in tree["tasks"]["plain"]] == ["", 'it has no classes in the field "subgroup"']
    silent = write(tmp_path / "silent", [replace(sample, captions={}, metadata={}) for sample in samples])
    with pytest.raises(UserError, match=r"nothing to evaluate on .*silent .retrieval: it has no captions; zero_shot"):
        evaluate(release, read(data=[str(silent)]))
