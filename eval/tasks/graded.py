"""Retrieval with graded relevance: nDCG@K, where a picture of a like thing is a worse answer, but an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.embeddings.split import EmbeddedSplit, Split
from eval.languages import in_words
from eval.metrics.graded import chance_ndcg, ndcg_of
from eval.metrics.ranking import SCORES_IN_MEMORY, Floats, Ints
from eval.tasks import Measured, Presentation, Task, mean_of
from eval.tasks.retrieval import WAYS, Captions
from vlp.config.bounds import Count, Positive
from vlp.errors import UserError

Gains = Callable[[slice], Floats]
"""some queries -> the gain of every candidate for each [q, N]"""


@dataclass(frozen=True, kw_only=True)
class Graded(Task):
    """nDCG@K of captions that look for pictures, and of pictures that look for others."""

    languages: tuple[str, ...] = ()
    """languages of captions; none: every language there is"""
    gains: dict[str, Positive] = field(default_factory=lambda: {"concept": 7.0, "subgroup": 3.0, "group": 1.0})
    """metadata fields -> gain of a picture with the same value there; the greatest of all that are the same counts"""
    own: Positive = 15.0
    """gain of a picture that the caption is of"""
    k: Count = 10
    """how many of the first candidates count"""

    @property
    def primary(self) -> str:
        """nDCG@K from caption to picture in the first language."""
        return f"{(self.languages or ('en',))[0]}/text_to_image/ndcg@{self.k}"

    def unfit(self, split: Split) -> str:
        """No field that grades pictures, or no captions. Raises UserError for a language that was asked for."""
        for language in self.languages:
            if not any(sample.said(language) for sample in split.samples):
                raise UserError(f'{split.spec} has no captions in "{language}"')
        if not any(name in sample.metadata for name in self.gains for sample in split.samples):
            return f"its samples have none of the fields {', '.join(self.gains)}"
        return "" if self.languages or split.languages else "it has no captions"

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LANGUAGE/text_to_image/ndcg@K`, and `image_to_image/ndcg@K`, of which a picture itself is no candidate.

        Raises UserError if there is nothing to grade by, or no captions.
        """
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be graded: {reason}")
        codes = {name: codes_of(split, name) for name in self.gains}
        result: dict[str, Measured] = {}
        for language in self.languages or split.languages:
            captions = Captions.gather(sample.said(language) for sample in split.samples)
            text = np.asarray(split.release.embed_texts(captions.texts), np.float32)
            gains = self._of_captions(captions, codes, len(split.samples))
            name = f"{language}/text_to_image/ndcg@{self.k}"
            label: tuple[str, ...] = (in_words(language), WAYS["text_to_image"], "graded")
            values, chance = self._values(text, split.image, gains)
            result[name] = self._measured(values, chance, captions.texts, len(split.samples), label)
        image_gains = self._of_pictures(codes)
        values, chance = self._values(split.image, split.image, image_gains, itself=True)
        answered = np.isfinite(values)
        if answered.any():
            keys = tuple(split.keys[row] for row in np.flatnonzero(answered))
            label = ("picture → picture", "graded")
            image = self._measured(values[answered], chance[answered], keys, len(split.samples) - 1, label)
            result[f"image_to_image/ndcg@{self.k}"] = image
        return result

    def _values(self, queries: Floats, images: Floats, gains: Gains, *, itself: bool = False) -> tuple[Floats, Floats]:
        """([Q] nDCG, [Q] nDCG by chance), NaN for queries that nothing answers; itself: query i is no candidate i."""
        values, chance = np.full(len(queries), np.nan), np.full(len(queries), np.nan)
        for rows in _blocks(len(queries), len(images)):
            scores, gain = queries[rows] @ images.T, gains(rows)
            if not np.isfinite(scores).all():
                raise UserError("a score is NaN or infinite: the model's embeddings are broken")
            if itself:
                others = np.arange(len(images))[None] != np.arange(rows.start, rows.stop)[:, None]
                scores, gain = (x[others].reshape(len(x), -1) for x in (scores, gain))
            some = gain.any(axis=1)
            numbers = rows.start + np.flatnonzero(some)
            values[numbers] = ndcg_of(scores[some], gain[some], k=self.k)
            chance[numbers] = chance_ndcg(gain[some], k=self.k)
        return values, chance

    def _measured(
        self, values: Floats, chance: Floats, keys: tuple[str, ...], candidates: int, label: tuple[str, ...]
    ) -> Measured:
        explains = f"nDCG@{self.k}: how good the first {self.k} are, against the best order that there is."
        words = Presentation(label, f"nDCG@{self.k}", explains, primary=True)
        return mean_of(
            values, keys, candidates=candidates, chance=float(chance.mean()), seed=self.seed, presentation=words
        )

    def _of_pictures(self, codes: dict[str, Ints]) -> Gains:
        def gains(rows: slice) -> Floats:
            return self._same({name: code[rows] for name, code in codes.items()}, codes)

        return gains

    def _of_captions(self, captions: Captions, codes: dict[str, Ints], count: int) -> Gains:
        """For each caption the gains of all pictures: the greatest for any of the pictures that have the caption."""
        caption, picture = np.array(captions.captions), np.array(captions.pictures)
        order = np.argsort(caption, kind="stable")
        caption, picture = caption[order], picture[order]

        def gains(rows: slice) -> Floats:
            own = slice(*np.searchsorted(caption, [rows.start, rows.stop]))
            result = np.zeros((rows.stop - rows.start, count))
            for pairs in _blocks(own.stop - own.start, count):
                which = slice(own.start + pairs.start, own.start + pairs.stop)
                like = self._same({name: code[picture[which]] for name, code in codes.items()}, codes)
                like[np.arange(len(like)), picture[which]] = self.own
                np.maximum.at(result, caption[which] - rows.start, like)
            return result

        return gains

    def _same(self, some: dict[str, Ints], codes: dict[str, Ints]) -> Floats:
        """[q, N] the greatest gain of the fields in which each of some pictures equals each picture."""
        gain = np.zeros((len(next(iter(some.values()))), len(next(iter(codes.values())))))
        for name, value in self.gains.items():
            same = (some[name][:, None] == codes[name][None]) & (some[name][:, None] >= 0)
            np.maximum(gain, value * same, out=gain)
        return gain


def codes_of(split: Split, name: str) -> Ints:
    """[N] a number for each value of a metadata field, -1 where a sample has none."""
    number: dict[Any, int] = {}
    values = [sample.metadata.get(name) for sample in split.samples]
    return np.array([-1 if v in (None, "") else number.setdefault(str(v), len(number)) for v in values], np.int64)


def _blocks(queries: int, candidates: int) -> Iterator[slice]:
    step = max(1, SCORES_IN_MEMORY // 8 // max(1, candidates))
    return (slice(start, min(start + step, queries)) for start in range(0, queries, step))
