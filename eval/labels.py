"""Which class each picture of a split has, by a field of its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.embeddings.split import Split
from eval.metrics.ranking import Ints
from vlp.errors import UserError
from vlp.legible import plain


@dataclass(frozen=True)
class Labels:
    """The pictures that have a class, or several, and which."""

    classes: tuple[str, ...]
    rows: Ints  # [P] row of each pair in the split, ascending
    of: Ints  # [P] class of each pair

    @property
    def single(self) -> bool:
        """Whether no picture has two classes."""
        return len(np.unique(self.rows)) == len(self.rows)

    def in_classes(self, classes: Sequence[str]) -> Labels:
        """The same by the numbers of `classes`, which have all of its own."""
        number = {name: i for i, name in enumerate(classes)}
        own = np.array([number[name] for name in self.classes], np.int64)
        return Labels(tuple(classes), self.rows, own[self.of])


def classes_of(value: Any, known: Sequence[str] = ()) -> list[str]:
    """The classes that a metadata value names: a text, a number, or a list of them; a number may be that of `known`.

    >>> classes_of("cat"), classes_of([1, 0], ("dog", "cat")), classes_of(None)
    (['cat'], ['cat', 'dog'], [])
    """
    values = value if isinstance(value, list) else [value]
    names = []
    for one in values:
        if one in (None, ""):
            continue
        number = one if isinstance(one, int) and not isinstance(one, bool) else None
        names.append(known[number] if number is not None and 0 <= number < len(known) else str(one))
    return names


def labels_of(split: Split, field: str, known: Sequence[str] = ()) -> Labels:
    """The classes in a field: those of `known` in their order, or if there are none all that occur, sorted.

    Raises UserError for a class that is none of `known`.
    """
    names = [classes_of(sample.metadata.get(field), known) for sample in split.samples]
    classes = tuple(known) or tuple(sorted({name for some in names for name in some}))
    number = {name: i for i, name in enumerate(classes)}
    for row, some in enumerate(names):
        for name in some:
            if name not in number:
                raise UserError(
                    f'the sample {plain(split.samples[row].key)} of {split.spec} has the class "{plain(name, 60)}" in '
                    f'"{field}", which is none of the {len(classes)} classes of the dataset; correct it, or the list'
                )
    pairs = np.array([(row, number[name]) for row, some in enumerate(names) for name in some], np.int64)
    rows, of = pairs.reshape(-1, 2).T
    return Labels(classes, rows, of)
