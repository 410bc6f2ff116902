"""Presets of evaluations: which word is what, which task runs where, which flag is meant for whom."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from eval.configuration import (
    EvalConfig,
    gather,
    is_preset,
    known_presets,
    preset_files,
    read,
    sorted_words,
    split_name,
    spread,
)
from eval.datasets.cifar import Cifar
from eval.datasets.shards import Shards
from eval.tasks import Measured, Presentation, Task
from eval.tasks.retrieval import Retrieval
from eval.tasks.zero_shot import ZeroShot
from vlp.config import build, to_tree
from vlp.errors import UserError

TASKS: dict[str, Task] = {"retrieval": Retrieval(), "zero_shot": ZeroShot()}
MINE = """
data = ["bundled:emoji/val"]

[tasks.words]
name = "retrieval"
languages = ["tags.en"]

[tasks.tones]
name = "zero_shot"
label = "tone"
data = "bundled:emoji/test_attr"
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.toml").write_text(MINE)
    return str(tmp_path / "mine.toml")


@pytest.mark.parametrize("name", known_presets())
def test_every_preset_is_an_evaluation_and_comes_back_from_its_record(name: str) -> None:
    config = read([name], data=["somewhere"])
    assert config.by_split()
    assert build(EvalConfig, to_tree(config)) == config


def test_without_a_preset_the_default_tasks_are_measured() -> None:
    assert read() == read(["default"]) == EvalConfig(TASKS)
    assert read(["demo"]).tasks == TASKS  # it names shard sets and no task


def test_a_preset_with_tasks_has_no_others(mine: str) -> None:
    config = read([mine])
    assert config.tasks == {
        "words": Retrieval(languages=("tags.en",)),
        "tones": ZeroShot(label="tone", data="bundled:emoji/test_attr"),
    }
    assert config.by_split() == {
        "val": (Shards(root="bundled:emoji/val"), {"words": config.tasks["words"]}),
        "test_attr": (Shards(root="bundled:emoji/test_attr"), {"tones": config.tasks["tones"]}),
    }


def test_tasks_of_one_shard_set_come_together() -> None:
    tasks = {"a": Retrieval(data="x/test"), "b": ZeroShot(data="y/test"), "c": ZeroShot(data="x/test", label="z")}
    splits = EvalConfig(dict(tasks)).by_split()
    assert [(name, dataset.spec, list(some)) for name, (dataset, some) in splits.items()] == [
        ("test", "x/test", ["a", "c"]),
        ("test_2", "y/test", ["b"]),
    ]


def test_a_folder_goes_before_the_shard_sets() -> None:
    specs = [dataset.spec for dataset, _ in read(["demo"], folder="/data/emoji").by_split().values()]
    assert specs[0] == "/data/emoji/test_style"
    assert [dataset.spec for dataset, _ in read(["demo"], data=["a", "b"]).by_split().values()] == ["a", "b"]


def test_a_task_without_data_is_refused() -> None:
    with pytest.raises(UserError, match='the task "retrieval" has no data'):
        read().by_split()


def test_words_are_shard_sets_or_presets(mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["bundled:emoji/val", "demo", mine, "a/{0..3}.tar", "./demo", "s3://b/x"]
    assert sorted_words(words) == (["demo", mine], ["bundled:emoji/val", "a/{0..3}.tar", "./demo", "s3://b/x"])
    assert not is_preset("demo.tar")
    with pytest.raises(UserError, match='no shard set and no preset "defualt"; did you mean "default"'):
        sorted_words(["defualt"])
    (tmp_path / "mydata").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sorted_words(["mydata"]) == ([], ["mydata"])
    with pytest.raises(UserError, match=r'no preset "none.toml".*default, demo'):
        preset_files(["none.toml"])


def test_a_short_flag_is_meant_for_every_task_that_has_the_setting() -> None:
    own = {"out", "at_least"}
    assert spread(["--languages", "en", "zh", "--out", "x"], own, TASKS) == [
        *("--tasks.retrieval.languages", "en", "zh", "--out", "x"),
    ]
    assert spread(["--seed", "-1"], own, TASKS) == ["--tasks.retrieval.seed", "-1", "--tasks.zero_shot.seed", "-1"]
    assert spread(["--label=tone"], own, TASKS) == ["--tasks.zero_shot.label=tone"]
    assert spread(["--at-least", "a=1"], own, TASKS) == ["--at-least", "a=1"]
    assert spread(["--tasks.zero_shot.label", "x"], own, TASKS) == ["--tasks.zero_shot.label", "x"]
    with pytest.raises(UserError, match=r'no task .* "--labels"; did you mean "label"'):
        spread(["--labels", "x"], own, TASKS)
    with pytest.raises(UserError, match="--label"):
        spread(["--label", "x"], own, {"retrieval": Retrieval()})


def test_a_metric_that_two_tasks_give_keeps_both() -> None:
    one = Measured(0.5, (0.4, 0.6), 10, 5, 0.1, Presentation(("by colour",), "acc@1"))
    two = dataclasses.replace(one, value=0.7)
    named = gather("test", [("bare", {"acc1": one}), ("picture", {"acc1": two, "acc5": two})])
    assert {name: m.value for name, m in named.items()} == {
        "test/acc1": 0.5,
        "test/picture/acc1": 0.7,
        "test/acc5": 0.7,
    }
    assert named["test/picture/acc1"].presentation.label == ("picture", "by colour")


@pytest.mark.parametrize(
    "text, sentence",
    [
        ('[tasks.a]\nname = "retrieva"', 'no task is called "retrieva"; did you mean "retrieval"'),
        ('[tasks.a]\nname = "retrieval"\nk = 3', 'unknown key "tasks.a.k"; did you mean "ks"'),
        ('[tasks.a]\nname = "retrieval"\nks = [0]', '"tasks.a.ks[0]" is 0, but it should be 1 or more'),
        ('[tasks.a]\nname = "zero_shot"\nseed = -3', '"tasks.a.seed" is -3, but it should be 0 or more'),
        ("[tasks.a]\nks = [1]", '"tasks.a" needs a name'),
    ],
)
def test_bad_presets_are_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        read([str(tmp_path / "bad.toml")])
    assert sentence in str(caught.value)


def test_split_names_in_use_are_not_given_again() -> None:
    assert split_name("a/test", {"test": 0}) == "test_2"
    assert split_name("a/test", {"test": 0, "test_2": 0}) == "test_3"


def test_a_dataset_lies_under_the_root_or_is_the_root_itself(tmp_path: Path) -> None:
    """Where several are asked for, each has a folder of its own."""
    (tmp_path / "in").mkdir()

    def roots(*given: str, **more: str) -> list[str]:
        datasets = {str(i): Cifar(root=root) for i, root in enumerate(given)}
        return [dataset.root for dataset in EvalConfig(datasets=datasets, root=str(tmp_path), **more).placed().values()]

    root = str(tmp_path)
    assert roots("in") == [f"{root}/in"]
    assert roots("out") == [root]
    assert roots("/abs") == ["/abs"]
    assert roots("out", collection="some") == [f"{root}/out"]
    assert roots("in", "out") == [f"{root}/in", f"{root}/out"]
    shards = EvalConfig(datasets={"s": Shards(root="bundled:emoji/val")}, root=root)
    assert shards.placed() == shards.datasets
