"""Lists of classes: those that come along, a user's own, and what is no list."""

from __future__ import annotations

import tomllib
from pathlib import Path

import open_clip
import pytest

from eval.prompts.class_names import HERE, IMAGENET, classes, first_names, known_lists, synsets
from eval.prompts.templates import templates
from vlp.errors import UserError

COUNTS = {
    "caltech101": 102,
    "caltech101_vtab": 102,
    "cifar10": 10,
    "cifar100": 100,
    "imagenet": 1_000,
    "imagenet_zh": 1_000,
    "mnist": 10,
    "svhn": 10,
}


@pytest.mark.parametrize("name", known_lists())
def test_every_list_is_whole_and_says_where_it_comes_from(name: str) -> None:
    tree = tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))
    assert len(tree["source"]) > 10
    names = first_names(classes(name))
    assert len(names) == COUNTS[name]
    assert all(one == one.strip() for one in names)


def test_imagenet_is_open_clip_s() -> None:
    assert list(first_names(classes(IMAGENET))) == list(open_clip.IMAGENET_CLASSNAMES)
    known = synsets()
    assert list(known) == sorted(known)
    assert (known["n01440764"], known["n15075141"]) == (0, 999)  # tench, toilet tissue
    assert first_names(classes("imagenet_zh"))[0] == "丁鲷"  # tench


@pytest.mark.parametrize("name, count", [("cifar", 18), ("caltech", 34), ("imagenet_80_zh", 80), ("mnist", 1)])
def test_sets_have_the_number_of_templates_that_the_field_uses(name: str, count: int) -> None:
    assert len(templates(name)) == count


def test_a_class_may_have_several_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat\ttomcat\ndog\n\n")
    (tmp_path / "a.toml").write_text('classes = [["cat", "tomcat"], "dog"]')
    expected = (("cat", "tomcat"), ("dog",))
    assert classes(str(tmp_path / "a.txt")) == classes(str(tmp_path / "a.toml")) == expected


@pytest.mark.parametrize(
    "file, text, sentence",
    [
        ("a.txt", "cat\n\ndog\n", "has no name in line 2"),
        ("a.txt", "cat\n", "has 1 classes, and two are needed"),
        ("a.toml", "classes = [", "is not valid TOML"),
        ("a.toml", 'names = ["a"]', 'has no list "classes"'),
        ("a.toml", 'classes = ["a", []]', r"has the class \[\]; expected a name, or a list of names"),
        ("a.toml", 'classes = ["a", 3]', "has the class 3"),
    ],
)
def test_what_is_no_list_is_one_sentence(file: str, text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=sentence):
        classes(str(tmp_path / file))


def test_a_list_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match='no list of classes is called "cifar"; did you mean "cifar10"'):
        classes("cifar")
    with pytest.raises(UserError, match=r"there is no list of classes none\.txt; known lists: caltech101, "):
        classes("none.txt")
