"""Which pictures of a set go with a cue: as many as are associated are picked, and compared with those (Jaccard).

The protocol of WinoGAViL (Bitton et al. 2022, 2207.12576) in DataComp: the text is "A CUE" or "An CUE" in lower case;
its metric is that of the items with ten candidates or more. Equal scores go against the associated ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from eval.embeddings.split import EmbeddedSplit, Split
from eval.metrics.ranking import Floats
from eval.tasks import Measured, Presentation, Task, mean_of
from vlp.errors import UserError

MANY = 10  # candidates


@dataclass(frozen=True, kw_only=True)
class Association(Task):
    """The Jaccard index of the pictures that are picked and those that are associated with the cue."""

    @property
    def primary(self) -> str:
        """Over all items."""
        return "jaccard"

    def unfit(self, split: Split) -> str:
        """No sample has an item and its cue."""
        return "" if self._items(split) else "its pictures come in no sets with a cue"

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`jaccard`, and `jaccard_10_12` of the items with ten candidates or more, where there are any."""
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} has no associations: {reason}")
        items = self._items(split)
        cues = [str(split.samples[rows[0]].metadata["cue"]) for rows in items.values()]
        text = np.asarray(split.release.embed_texts([spoken(cue) for cue in cues]), np.float32)  # [I, D]
        truth = [np.array([bool(split.samples[row].metadata["associated"]) for row in rows]) for rows in items.values()]
        scores = [split.image[rows] @ cue for rows, cue in zip(items.values(), text, strict=True)]
        values = np.array([jaccard(s, t) for s, t in zip(scores, truth, strict=True)])
        chances = np.array([chance(len(t), int(t.sum())) for t in truth])
        many = np.array([len(t) >= MANY for t in truth])
        result: dict[str, Measured] = {}
        for name, kept in (("jaccard", np.ones(len(many), bool)), ("jaccard_10_12", many)):
            if kept.any():
                keys = tuple(key for key, keep in zip(items, kept, strict=True) if keep)
                result[name] = mean_of(
                    values[kept],
                    keys,
                    candidates=max(len(t) for t, keep in zip(truth, kept, strict=True) if keep),
                    chance=float(chances[kept].mean()),
                    seed=self.seed,
                    presentation=_words(name),
                )
        return result

    @staticmethod
    def _items(split: Split) -> dict[str, list[int]]:
        """Item -> rows of its candidates."""
        items: dict[str, list[int]] = {}
        for row, sample in enumerate(split.samples):
            if "cue" in sample.metadata and "associated" in sample.metadata:
                items.setdefault(str(sample.metadata.get("item")), []).append(row)
        associated = {
            item: sum(bool(split.samples[row].metadata["associated"]) for row in rows) for item, rows in items.items()
        }
        return {item: rows for item, rows in items.items() if 0 < associated[item] < len(rows)}


def spoken(cue: str) -> str:
    """The text of a cue.

    >>> spoken("Owl"), spoken("pillow")
    ('An owl', 'A pillow')
    """
    low = cue.lower()
    return f"{'An' if low[:1] in tuple('aeiou') else 'A'} {low}"


def jaccard(scores: Floats, truth: np.ndarray) -> float:
    """The overlap of the best n of `scores` [N] with the n that are true (`truth`, [N] bool), over their union.

    >>> round(jaccard(np.array([0.9, 0.5, 0.3, 0.1]), np.array([True, False, True, False])), 4)
    0.3333
    """
    count = int(truth.sum())
    picked = np.lexsort((truth, -scores))[:count]
    both = int(truth[picked].sum())
    return both / (2 * count - both)


def chance(candidates: int, count: int) -> float:
    """The mean of `jaccard` over all picks of `count` among `candidates`.

    >>> chance(2, 1)
    0.5
    """
    every = range(max(0, 2 * count - candidates), count + 1)
    ways = {both: comb(count, both) * comb(candidates - count, count - both) for both in every}
    return sum(n * both / (2 * count - both) for both, n in ways.items()) / comb(candidates, count)


def _words(name: str) -> Presentation:
    label = "associations" if name == "jaccard" else "associations, ten candidates or more"
    return Presentation(
        label=(label,),
        measure="Jaccard",
        explains="Jaccard: pictures that are both picked and associated, over those that are one of the two.",
        primary=name == "jaccard",
    )
