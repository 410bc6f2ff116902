"""What one asks for: texts and pictures with weights, of a command line or of a line of JSON; and their vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional, UseAppendAction, arg

from eval.embeddings.encode import PICTURES_AT_ONCE, decoders
from eval.search.compose import composed
from vlp.config import did_you_mean
from vlp.errors import UserError
from vlp.legible import plain
from vlp.pictures import Limits, Refused, decode

if TYPE_CHECKING:
    from torch import Tensor

    from vlp.models.release import Release

MOST_K = 100_000
"""Matches of one query of many"""
FAR = 1e6  # weights are compared with each other: none needs to be larger


@dataclass(frozen=True)
class Query:
    """A question of several parts: the direction of the weighted sum of their unit vectors."""

    text: Annotated[Positional[str], arg(metavar="TEXT")] = ""
    """what to look for, such as "a red apple\""""
    image: Path | None = None
    """picture to look for, alone or with a text"""
    more: UseAppendAction[tuple[str, ...]] = ()
    """text that the matches should be more like; may be given several times"""
    less: UseAppendAction[tuple[str, ...]] = ()
    """text that the matches should be less like; may be given several times"""
    more_image: UseAppendAction[tuple[Path, ...]] = ()
    """picture that they should be more like"""
    less_image: UseAppendAction[tuple[Path, ...]] = ()
    """picture that they should be less like"""
    text_weight: float = 1.0
    """weight of the text"""
    image_weight: float = 1.0
    """weight of the picture"""
    strength: float = 0.5
    """weight of each more, and, taken away, of each less"""
    where: str = ""
    """what the matches fulfil, such as "style = 'flat' AND width > 100", in SQL over the columns"""
    k: Annotated[int, arg(aliases=["-k"])] = 10
    """how many matches"""

    def checked(self) -> Query:
        """The query itself. Raises UserError if it asks nothing, for a picture that is not there, or bad numbers."""
        if not self.parts:
            raise UserError("the question is empty; give a text or a picture")
        for path in (part for _, part in self.parts if isinstance(part, Path)):
            if not path.is_file():
                raise UserError(f"there is no picture {plain(path)}; give the path of a PNG, JPEG or WebP file")
        for name in ("text_weight", "image_weight", "strength"):
            value = getattr(self, name)
            if not (0 if name == "strength" else -FAR) <= value <= FAR:
                raise UserError(f"{name} is {value}, but it should be a number {_bounds(name)}")
        if self.k < 1:
            raise UserError(f"k is {self.k}, but it should be at least 1")
        return self

    @property
    def parts(self) -> list[tuple[float, str | Path]]:
        """Each part with its weight: below 0 for what the matches should be less like."""
        whole: list[tuple[float, str | Path]] = []
        if self.text.strip():
            whole.append((self.text_weight, self.text))
        if self.image is not None:
            whole.append((self.image_weight, self.image))
        for weight, some in (
            (self.strength, (self.more, self.more_image)),
            (-self.strength, (self.less, self.less_image)),
        ):
            whole += [(weight, part) for kind in some for part in kind if isinstance(part, Path) or part.strip()]
        return whole

    @property
    def note(self) -> str:
        """What there is beside the text, in words; "" where there is nothing."""
        said = [f"like {self.image}"] if self.image is not None else []
        said += [f"more like {part}" for part in (*self.more, *self.more_image)]
        said += [f"less like {part}" for part in (*self.less, *self.less_image)]
        said += [f"where {self.where}"] if self.where else []
        return ", ".join(said)


def _bounds(name: str) -> str:
    return f"from 0 to {FAR:,.0f}" if name == "strength" else f"from {-FAR:,.0f} to {FAR:,.0f}"


def of_json(record: object, base: Query) -> Query:
    """The query that a line of JSON is: the fields of Query, paths as strings; what it leaves out is as in `base`.

    >>> of_json({"text": "a pear", "less": "green"}, Query(text="?", k=3))
    Query(text='a pear', image=None, more=(), less=('green',), more_image=(), less_image=(), text_weight=1.0, \
image_weight=1.0, strength=0.5, where='', k=3)

    Raises UserError for a field that is none, a value of another kind, or a question that cannot be asked.
    """
    if not isinstance(record, Mapping):
        raise UserError(f'it is {plain(json.dumps(record), 40)}, expected an object such as {{"text": "a red apple"}}')
    known = {field.name: getattr(base, field.name) for field in fields(Query)}
    made: dict[str, Any] = {**known, "text": "", "image": None}
    for name, value in record.items():
        if name not in known:
            raise UserError(f'there is no field "{plain(name)}"{did_you_mean(str(name), sorted(known))}')
        made[name] = _typed(name, value, known[name])
    return Query(**made).checked()


def _typed(name: str, value: object, usual: object) -> object:
    """A value of JSON as the field `name` has it. Raises UserError for another kind."""
    if isinstance(usual, tuple):
        several = [value] if isinstance(value, str) else value
        if isinstance(several, list) and all(isinstance(one, str) for one in several):
            return tuple(Path(one) if name.endswith("image") else one for one in several)
        raise UserError(f'"{name}" is {plain(json.dumps(value), 40)}, expected a string or a list of strings')
    if name in ("text", "where", "image"):
        if isinstance(value, str):
            return Path(value) if name == "image" else value
        raise UserError(f'"{name}" is {plain(json.dumps(value), 40)}, expected a string')
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and name == "k" and value <= MOST_K:  # type: ignore[operator]
        return value
    if name != "k" and (whole or isinstance(value, float)) and abs(value) <= FAR:  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    wanted = f"a whole number from 1 to {MOST_K:,}" if name == "k" else f"a number {_bounds(name)}"
    raise UserError(f'"{name}" is {plain(json.dumps(value), 40)}, expected {wanted}')


def vectors_of(release: Release, queries: Sequence[Query]) -> list[NDArray[np.float32] | UserError]:
    """One unit vector [D] for each query, each text and picture embedded once; the error of one that has none.

    Pictures are decoded in threads, PICTURES_AT_ONCE of them in memory.
    """
    parts = [part for query in queries for part in query.parts]
    texts = list(dict.fromkeys(part for _, part in parts if isinstance(part, str)))
    paths = list(dict.fromkeys(part for _, part in parts if isinstance(part, Path)))
    known: dict[str | Path, NDArray[np.float32] | UserError] = dict(
        zip(texts, np.asarray(release.embed_texts(texts)), strict=True)
    )
    for start in range(0, len(paths), PICTURES_AT_ONCE):
        known |= _pictures(release, paths[start : start + PICTURES_AT_ONCE])
    made: list[NDArray[np.float32] | UserError] = []
    for query in queries:
        vectors = [known[part] for _, part in query.parts]
        wrong = next((vector for vector in vectors if isinstance(vector, UserError)), None)
        try:
            made.append(wrong or composed(np.asarray(vectors), [weight for weight, _ in query.parts]))
        except UserError as error:
            made.append(error)
    return made


def _pictures(release: Release, paths: Sequence[Path]) -> dict[str | Path, NDArray[np.float32] | UserError]:
    """The vector [D] of each picture, or why it has none."""
    import torch

    def pixels(path: Path) -> Tensor | UserError:
        try:
            return release.transform(decode(path.read_bytes(), Limits()))
        except Refused as error:
            return UserError(f"{plain(path)} cannot be searched for: {error}; give a PNG, JPEG or WebP")
        except OSError as error:
            return UserError(f"{plain(path)} cannot be read: {error.strerror}; give the path of a picture")

    prepared = dict(zip(paths, decoders().map(pixels, paths), strict=True))
    good = {path: one for path, one in prepared.items() if not isinstance(one, UserError)}
    made: dict[str | Path, NDArray[np.float32] | UserError] = {
        path: one for path, one in prepared.items() if isinstance(one, UserError)
    }
    if good:
        made |= zip(good, np.asarray(release.embed_pixels(torch.stack(list(good.values())))), strict=True)
    return made
