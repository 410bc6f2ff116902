"""Sets of templates: TOML files of this folder by name, others by path, and open_clip's for ImageNet."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vlp.config import did_you_mean
from vlp.errors import UserError

HERE = Path(__file__).parent
FROM_OPEN_CLIP = {"imagenet_80": "OPENAI_IMAGENET_TEMPLATES", "imagenet_7": "SIMPLE_IMAGENET_TEMPLATES"}
Template = Callable[[str], str]


def known_sets() -> list[str]:
    """Every name that `templates` takes."""
    return sorted([*(path.stem for path in HERE.glob("*.toml")), *FROM_OPEN_CLIP])


def templates(name: str) -> Sequence[Template]:
    """The templates of a set, each a function from a class's name to a text.

    `name` is that of a file in eval/prompts (`bare`, `picture`), of open_clip's sets (`imagenet_80`, `imagenet_7`), or
    the path of a .toml file: `templates` is its list of texts in which {} stands for the class, and `source` says where
    they come from. Raises UserError for an unknown set and for a file that is no set.

    >>> [template("cat") for template in templates("bare")]
    ['cat']
    """
    return from_texts(texts_of_set(name))


def texts_of_set(name: str) -> tuple[str, ...]:
    """The texts of a set, with {} where the class goes. Raises UserError as `templates` does.

    >>> texts_of_set("bare")
    ('{}',)
    """
    if name in FROM_OPEN_CLIP:
        import open_clip

        return tuple(template("{}") for template in getattr(open_clip, FROM_OPEN_CLIP[name]))
    path = Path(name) if name.endswith(".toml") else HERE / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise UserError(f"there is no file of templates {name}; known sets: {', '.join(known_sets())}")
        raise UserError(f'no set of templates is called "{name}"{did_you_mean(name, known_sets())}')
    return tuple(_texts(path))


def from_texts(texts: Sequence[str]) -> Sequence[Template]:
    """The templates of texts in which {} stands for the class."""
    return [partial(_filled, text) for text in texts]


def _texts(path: Path) -> list[str]:
    try:
        tree: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    texts = tree.get("templates")
    if not isinstance(texts, list) or not texts:
        raise UserError(f'{path} has no list "templates"; write it as templates = ["a photo of a {{}}."]')
    for text in texts:
        if not isinstance(text, str) or "{}" not in text:
            raise UserError(f"{path} has the template {text!r}, but every template needs {{}} where the class goes")
    return texts


def _filled(text: str, name: str) -> str:
    return text.replace("{}", name)
