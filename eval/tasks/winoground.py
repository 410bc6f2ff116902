"""Winoground: two pictures and two captions of the same words (Thrush et al. 2022, equations 1 to 3).

The two samples of an item share an id in the metadata under `pair`; each has one picture and its own caption. Equal
scores (up to ROUNDING) are no success.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.embeddings.split import EmbeddedSplit, Split
from eval.languages import in_words
from eval.metrics.ranking import ROUNDING, Floats, Ints
from eval.tasks import Measured, Presentation, Task, mean_of
from vlp.errors import UserError

CHANCE = {"text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}
EXPLAINS = {
    "text_score": "Text: the share of pairs in which each picture prefers its own caption.",
    "image_score": "Image: the share of pairs in which each caption prefers its own picture.",
    "group_score": "Group: the share of pairs in which both are so.",
}


def pair_scores(scores: Floats) -> dict[str, Floats]:
    """[P] text, image and group score, each 0 or 1, of pairs with scores [P, 2 captions, 2 pictures].

    Both pictures prefer their own caption, but the second caption prefers the first picture:

    >>> {name: float(score[0]) for name, score in pair_scores(np.array([[[0.9, 0.2], [0.6, 0.3]]])).items()}
    {'text_score': 1.0, 'image_score': 0.0, 'group_score': 0.0}
    """
    own = (scores[:, 0, 0] - ROUNDING, scores[:, 1, 1] - ROUNDING)
    text = (own[0] > scores[:, 1, 0]) & (own[1] > scores[:, 0, 1])
    image = (own[0] > scores[:, 0, 1]) & (own[1] > scores[:, 1, 0])
    every = {"text_score": text, "image_score": image, "group_score": text & image}
    return {name: score.astype(np.float64) for name, score in every.items()}


def pairs_of(split: Split, language: str) -> dict[str, list[int]]:
    """id -> rows of its two samples, of the pairs that have both captions in a language.

    Raises UserError for an id that other than two samples share.
    """
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(split.samples):
        if sample.metadata.get("pair") not in (None, ""):
            rows.setdefault(str(sample.metadata["pair"]), []).append(row)
    for pair, some in rows.items():
        if len(some) != 2:
            raise UserError(
                f'{split.spec} has {len(some)} samples of the pair "{pair}", but two are expected: one for each picture'
            )
    return {pair: some for pair, some in rows.items() if all(split.samples[row].said(language) for row in some)}


@dataclass(frozen=True, kw_only=True)
class Winoground(Task):
    """Text, image and group score over pairs of pictures whose captions differ in the order of their words."""

    languages: tuple[str, ...] = ()
    """languages of captions; none: every language in which pairs have captions"""

    @property
    def primary(self) -> str:
        """The group score, in the first language."""
        return f"{(self.languages or ('en',))[0]}/winoground/group_score"

    def unfit(self, split: Split) -> str:
        """No pairs. Raises UserError if there are none in a language that was asked for."""
        for language in self.languages:
            if not pairs_of(split, language):
                raise UserError(f'{split.spec} has no pairs with captions in "{language}" (the field "pair")')
        if self.languages or any(pairs_of(split, language) for language in split.languages):
            return ""
        return 'it has no pairs (the field "pair")'

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LANGUAGE/winoground/text_score`, `.../image_score` and `.../group_score`, also of each `category`.

        Raises UserError as `unfit` does, and where there are no pairs.
        """
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be paired: {reason}")
        result: dict[str, Measured] = {}
        for language in self.languages or split.languages:
            pairs = pairs_of(split, language)
            if pairs:
                result |= self._one_language(split, language, pairs)
        return result

    def _one_language(self, split: EmbeddedSplit, language: str, pairs: dict[str, list[int]]) -> dict[str, Measured]:
        rows: Ints = np.array(list(pairs.values()), np.int64)  # [P, 2]
        texts = [split.samples[row].said(language)[0] for row in rows.ravel()]
        unique = list(dict.fromkeys(texts))
        vectors = np.asarray(split.release.embed_texts(unique), np.float32)
        number = {text: i for i, text in enumerate(unique)}
        text = vectors[[number[text] for text in texts]].reshape(len(rows), 2, -1)
        scores = text @ split.image[rows].transpose(0, 2, 1)  # [P, 2 captions, 2 pictures]
        if not np.isfinite(scores).all():
            raise UserError(f"a score on {split.spec} is NaN or infinite: the model's embeddings are broken")
        label = (in_words(language), "word order")
        categories = np.array([str(split.samples[row].metadata.get("category") or "") for row in rows[:, 0]])
        result = self._scores(f"{language}/winoground", label, scores, tuple(pairs))
        for category in sorted({*categories.tolist()} - {""}):
            own = np.flatnonzero(categories == category)
            keys = tuple(list(pairs)[i] for i in own)
            result |= self._scores(f"{language}/winoground/{category}", (*label, category), scores[own], keys)
        return result

    def _scores(self, name: str, label: tuple[str, ...], scores: Floats, keys: tuple[str, ...]) -> dict[str, Measured]:
        return {
            f"{name}/{score}": mean_of(
                values,
                keys,
                candidates=2,
                chance=CHANCE[score],
                seed=self.seed,
                presentation=Presentation(
                    label, score.removesuffix("_score"), EXPLAINS[score], primary=score == "group_score"
                ),
            )
            for score, values in pair_scores(scores).items()
        }
