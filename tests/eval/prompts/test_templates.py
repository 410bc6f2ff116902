"""Sets of templates: the files of the folder, anybody's file, open_clip's, and what is no set."""

from __future__ import annotations

import doctest
import tomllib
from pathlib import Path

import open_clip
import pytest

from eval.prompts import classifier as classifiers
from eval.prompts import templates as module
from eval.prompts.classifier import classifier, prompts
from eval.prompts.templates import HERE, known_sets, templates
from vlp.errors import UserError
from vlp.models.release import Release

FILES = sorted(HERE.glob("*.toml"))


def test_docstring_examples() -> None:
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(classifiers).failed == 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_set_says_where_it_comes_from_and_puts_the_class_in(path: Path) -> None:
    tree = tomllib.loads(path.read_text())
    assert len(tree["source"]) > 10
    filled = [template("ZZ") for template in templates(path.stem)]
    assert filled == [text.replace("{}", "ZZ") for text in tree["templates"]]
    assert all("ZZ" in text for text in filled)


def test_open_clip_s_sets_are_its_own() -> None:
    for name, theirs in (
        ("imagenet_80", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("imagenet_7", open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ):
        assert [t("cat") for t in templates(name)] == [t("cat") for t in theirs]
        assert name in known_sets()


def test_a_file_of_one_s_own(tmp_path: Path, release: Release) -> None:
    path = tmp_path / "toys.toml"
    path.write_text('templates = ["a toy {}", "{} with braces {x}"]')
    assert prompts(["red_car"], str(path)) == [["a toy red car", "red car with braces {x}"]]
    assert classifier(release, ["a", "b", "c"], str(path)).shape == (3, 32)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("templates = []", 'has no list "templates"'),
        ("other = 1", 'has no list "templates"'),
        ('templates = ["a photo"]', "every template needs {} where the class goes"),
        ("templates = [3]", "every template needs {} where the class goes"),
        ("templates = [", "is not valid TOML"),
    ],
)
def test_a_file_that_is_no_set_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        templates(str(tmp_path / "bad.toml"))
    assert sentence in str(caught.value)
    assert "bad.toml" in str(caught.value)


def test_a_set_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "picture"'):
        templates("pictures")
    with pytest.raises(
        UserError, match=r"no file of templates none\.toml; known sets: bare, caltech, cifar, imagenet_7"
    ):
        templates("none.toml")
