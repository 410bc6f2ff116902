"""Class names and templates -> a zero-shot classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval.prompts.templates import Template, templates

if TYPE_CHECKING:
    from vlp.models.release import Release

TEXTS_AT_ONCE = 16384


def prompts(names: Sequence[str], template_set: str) -> list[list[str]]:
    """[C][T] every class name in every template of the set (see `templates`).

    >>> prompts(["animal-cat"], "bare")
    [['animal cat']]

    Raises UserError for an unknown set.
    """
    return list(filled([(spoken(name),) for name in names], templates(template_set)))


def classifier(release: Release, names: Sequence[str], template_set: str) -> NDArray[np.float32]:
    """[C, D] unit vectors, one a class: the mean of its templates' vectors, normalised again (CLIP, section 3.1.4)."""
    return class_vectors(release, [(spoken(name),) for name in names], templates(template_set))


def spoken(label: str) -> str:
    """A label such as animal-cat as a name; names that a dataset or a list gives are taken as they are."""
    return label.replace("-", " ").replace("_", " ")


def filled(names: Sequence[Sequence[str]], chosen: Sequence[Template]) -> Iterator[list[str]]:
    """[C][T] every name of each class in every template; a class may have several names."""
    return ([template(name) for name in some for template in chosen] for some in names)


def class_vectors(release: Release, names: Sequence[Sequence[str]], chosen: Sequence[Template]) -> NDArray[np.float32]:
    """[C, D] unit vectors, one a class: the mean of the vectors of its prompts (unit norm), normalised again.

    names: [C] every name of each class. Memory is bounded by TEXTS_AT_ONCE prompts.
    """
    rows: list[NDArray[np.float32]] = []
    for texts in _together(filled(names, chosen)):
        vectors = np.asarray(release.embed_texts([text for row in texts for text in row]), np.float32)
        starts = np.cumsum([0, *(len(row) for row in texts[:-1])])
        mean = np.add.reduceat(vectors, starts) / np.array([[len(row)] for row in texts], np.float32)
        rows.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(rows)


def _together(texts: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    """The prompts of as many classes at a time as have up to TEXTS_AT_ONCE, at least of one."""
    some: list[list[str]] = []
    count = 0
    for row in texts:
        if some and count + len(row) > TEXTS_AT_ONCE:
            yield some
            some, count = [], 0
        some.append(row)
        count += len(row)
    yield some
