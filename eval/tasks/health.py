"""Health of an embedding space: alignment, uniformity, modality gap, effective rank.

A pair is a picture with its first caption. Alignment and uniformity: Wang and Isola 2020; modality gap: Liang et al.
2022; effective rank: Roy and Vetterli 2007.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from eval.embeddings.split import EmbeddedSplit, Split
from eval.languages import in_words
from eval.metrics import geometry
from eval.metrics.ranking import Floats, Ints
from eval.tasks import Measured, Presentation, Task, mean_of
from vlp.errors import UserError

GROUPS = 20  # of the jackknife
BY_JACKKNIFE = "Its interval is by jackknife over 20 groups of pairs."


@dataclass(frozen=True, kw_only=True)
class Health(Task):
    """How near pairs are, how evenly vectors are spread, how far the towers are apart, how many dimensions count."""

    languages: tuple[str, ...] = ()
    """languages of captions; none: every language there is"""

    @property
    def primary(self) -> str:
        """Alignment in the first language."""
        return f"{(self.languages or ('en',))[0]}/health/alignment"

    def unfit(self, split: Split) -> str:
        """Fewer pairs than the jackknife has groups. Raises UserError for a language that was asked for."""
        for language in self.languages:
            if reason := _too_few(split, language):
                raise UserError(f"{split.spec} has no use: {reason}")
        if self.languages or any(not _too_few(split, language) for language in split.languages):
            return ""
        return f"it has fewer than {GROUPS} captions in any language"

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LANGUAGE/health/alignment`, `.../uniformity_image`, `.../uniformity_text`, `.../modality_gap`,
        `.../effective_rank_image` and `.../effective_rank_text`.

        Raises UserError as `unfit` does, and where there are too few captions.
        """
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be examined: {reason}")
        result: dict[str, Measured] = {}
        for language in self.languages or split.languages:
            if not _too_few(split, language):
                result |= self._one_language(split, language)
        return result

    def _one_language(self, split: EmbeddedSplit, language: str) -> dict[str, Measured]:
        rows = [row for row, sample in enumerate(split.samples) if sample.said(language)]
        image = split.image[rows]
        text = np.asarray(split.release.embed_texts([split.samples[row].said(language)[0] for row in rows]), np.float32)
        name, label = f"{language}/health", (in_words(language), "embeddings")
        groups = np.random.default_rng(self.seed).permutation(len(rows)) % GROUPS
        of = partial(_by_jackknife, pairs=len(rows))
        aligned = "Alignment: mean squared distance of a picture from its caption, of at most 4."
        result = {
            f"{name}/alignment": mean_of(
                geometry.alignment(image, text),
                tuple(split.keys[row] for row in rows),
                candidates=len(rows),
                chance=2 - 2 * float(image.mean(axis=0) @ text.mean(axis=0)),
                seed=self.seed,
                unit="score",
                better="lower",
                presentation=Presentation(label, "alignment", aligned, primary=True),
            )
        }
        gap = _gap(image, text, groups)
        words = Presentation(label, "modality gap", f"Modality gap: distance of the two towers' means. {BY_JACKKNIFE}")
        result[f"{name}/modality_gap"] = of(gap, words, better="lower")
        for tower, in_word, vectors in (("image", "pictures", image), ("text", "captions", text)):
            even = f"Uniformity: log of the mean of exp(-2 d²) over two of the vectors. {BY_JACKKNIFE}"
            words = Presentation((*label, in_word), "uniformity", even)
            result[f"{name}/uniformity_{tower}"] = of(_uniformity(vectors, groups), words, better="lower")
            wide = f"Effective rank: exp of the entropy of the singular values. {BY_JACKKNIFE}"
            words = Presentation((*label, in_word), "effective rank", wide)
            result[f"{name}/effective_rank_{tower}"] = of(_rank(vectors, groups), words, unit="count")
        return result


def _too_few(split: Split, language: str) -> str:
    count = sum(bool(sample.said(language)) for sample in split.samples)
    return "" if count >= GROUPS else f'{count} captions in "{language}", and {GROUPS} are needed'


def _by_jackknife(
    statistic: Callable[[Ints], float],
    words: Presentation,
    *,
    pairs: int,
    unit: Literal["score", "count"] = "score",
    better: Literal["higher", "lower"] = "higher",
) -> Measured:
    every = np.arange(GROUPS)
    interval = geometry.jackknife(statistic, GROUPS)
    return Measured(statistic(every), interval, pairs, pairs, None, words, unit, better)


def _uniformity(vectors: Floats, groups: Ints) -> Callable[[Ints], float]:
    sums, sizes = geometry.gaussian_sums(vectors, groups, GROUPS), np.bincount(groups, minlength=GROUPS)
    return lambda some: geometry.uniformity_of_sums(sums[np.ix_(some, some)], sizes[some])


def _gap(image: Floats, text: Floats, groups: Ints) -> Callable[[Ints], float]:
    difference = image.astype(np.float64) - text
    sums = np.stack([difference[groups == group].sum(axis=0) for group in range(GROUPS)])
    sizes = np.bincount(groups, minlength=GROUPS)
    return lambda some: float(np.linalg.norm(sums[some].sum(axis=0) / sizes[some].sum()))


def _rank(vectors: Floats, groups: Ints) -> Callable[[Ints], float]:
    parts = [vectors[groups == group].astype(np.float64) for group in range(GROUPS)]
    grams = np.stack([part.T @ part for part in parts])
    return lambda some: geometry.effective_rank(grams[some].sum(axis=0))
