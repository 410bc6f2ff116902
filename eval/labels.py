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

USUAL_LABELS = ("subgroup", "class", "cls")  # as the bundled corpus, other datasets and .cls members have it


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


def listed(value: Any) -> list[str]:
    """The classes that a metadata value names, as texts: a text, a number, or a list of them.

    >>> listed("cat"), listed([1, "dog"]), listed(None)
    (['cat'], ['1', 'dog'], [])
    """
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if one not in (None, "")]


def field_of(split: Split, label: str) -> str:
    """The metadata field that holds the class: the one asked for, the dataset's own, or the first usual one."""
    usual = (name for name in USUAL_LABELS if any(name in sample.metadata for sample in split.samples))
    return label or split.protocol.label or next(usual, USUAL_LABELS[0])


def labels_of(
    split: Split, field: str, classes: Sequence[str] = (), names: Sequence[Sequence[str]] = (), *, of: str = ""
) -> Labels:
    """The classes in a field, of `classes` in their order, or if there are none of all that occur, sorted.

    A class of `classes` may also be called by one of its `names` [C], and by its number. Raises UserError for a class
    that is none of them; of: the list they are from, "" the dataset's own.
    """
    own = [listed(sample.metadata.get(field)) for sample in split.samples]
    labels = tuple(classes) or tuple(sorted({name for some in own for name in some}))
    number = {name: i for i, some in reversed(list(enumerate(names))) for name in some}
    number |= {label: i for i, label in enumerate(labels)}
    number = {str(i): i for i in range(len(classes))} | number
    pairs = []
    for row, some in enumerate(own):
        for name in some:
            if name not in number:
                raise UserError(
                    f'{split.spec} has the class {plain(name)!r} in "{field}" of {plain(split.samples[row].key)}, '
                    f"which is none of the {len(labels):,} classes of {of or 'the dataset'}: "
                    f"{plain(', '.join(labels), 100)}"
                )
            pairs.append((row, number[name]))
    rows, numbers = np.array(sorted(set(pairs)), np.int64).reshape(-1, 2).T
    return Labels(labels, rows, numbers)
