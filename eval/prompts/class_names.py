"""Lists of classes: TOML files of eval/prompts/classes by name, a .toml or .txt file by path, open_clip's ImageNet."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlp.config import did_you_mean
from vlp.errors import UserError
from vlp.legible import plain

HERE = Path(__file__).parent / "classes"
IMAGENET = "imagenet"  # open_clip's, in the order of its 1,000 synsets
Names = tuple[tuple[str, ...], ...]
"""[C] every name of each class, the first of which stands for it"""


def known_lists() -> list[str]:
    """Every name that `classes` takes."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def classes(name: str) -> Names:
    """The classes of a list, in the order of their numbers; each has one name or several.

    `name` is that of a file in eval/prompts/classes, `imagenet` (open_clip's names), or a path: a .txt has a class in
    each line (several names of one class stand between tabs); a .toml has `classes`, a list of names and of lists of
    names. Raises UserError for an unknown name and for a file that is no list.
    """
    if name == IMAGENET:
        import open_clip

        return tuple((one,) for one in open_clip.IMAGENET_CLASSNAMES)
    is_file = name.endswith((".toml", ".txt"))
    path = Path(name).expanduser() if is_file else HERE / f"{name}.toml"
    if not path.is_file():
        if is_file:
            raise UserError(f"there is no list of classes {name}; known lists: {', '.join(known_lists())}")
        raise UserError(f'no list of classes is called "{name}"{did_you_mean(name, known_lists())}')
    names = of_lines(path) if path.suffix == ".txt" else _of_toml(path)
    if len(names) < 2:
        raise UserError(f"{path} has {len(names)} classes, and two are needed; expected a name in each line")
    return names


def synsets() -> dict[str, int]:
    """ImageNet's synsets, such as n01440764, each with the number of its class."""
    tree = tomllib.loads((HERE / f"{IMAGENET}.toml").read_text(encoding="utf-8"))
    return {synset: number for number, synset in enumerate(tree["synsets"])}


def of_lines(path: Path) -> Names:
    """The classes of a file that has one in each line. Raises UserError for a line without a name, or no text."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a text file that can be read ({plain(error)}); expected UTF-8") from None
    while lines and not lines[-1].strip():
        lines.pop()
    names = tuple(tuple(word.strip() for word in line.split("\t") if word.strip()) for line in lines)
    if not all(names):
        raise UserError(f"{path} has no name in line {names.index(()) + 1}; expected the name of a class in each line")
    return names


def _of_toml(path: Path) -> Names:
    try:
        tree: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {plain(error)}") from None
    rows = tree.get("classes")
    if not isinstance(rows, list):
        raise UserError(f'{path} has no list "classes"; write it as classes = ["cat", ["dog", "hound"]]')
    for row in rows:
        if not (_is_name(row) or (isinstance(row, list) and row and all(map(_is_name, row)))):
            raise UserError(f"{path} has the class {plain(row)}; expected a name, or a list of names of one class")
    return tuple((row,) if isinstance(row, str) else tuple(row) for row in rows)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def first_names(names: Names) -> Sequence[str]:
    """(C,) the name that stands for each class."""
    return [some[0] for some in names]
