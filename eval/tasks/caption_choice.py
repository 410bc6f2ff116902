"""Choice of the true caption among false ones, as in ARO, SugarCrepe and CountBench.

A picture's true caption is its first one in a language; its false ones are in the metadata under `negatives`, a list or
a list for each language. A false caption of equal score (up to ROUNDING) counts as preferred. (ARO: Yuksekgonul et al.
2023; SugarCrepe: Hsieh et al. 2023; CountBench: Paiss et al. 2023.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit, Split
from eval.languages import in_words
from eval.metrics.ranking import ROUNDING, Floats, Ints
from eval.tasks import Measured, Presentation, Task, mean_of
from vlp.errors import UserError

PICTURES_AT_ONCE = 1024  # whose captions are embedded together


@dataclass(frozen=True)
class Choices:
    """The pictures that have false captions in a language, with the true one first."""

    rows: Ints  # [Q]
    captions: tuple[tuple[str, ...], ...]  # [Q] the true one, and the false ones
    categories: tuple[str, ...]  # [Q] "" where a picture has none

    @classmethod
    def gather(cls, samples: list[Sample], language: str) -> Choices:
        """From the captions and the `negatives` of all samples."""
        some = [
            (row, (sample.said(language)[0], *false), str(sample.metadata.get("category") or ""))
            for row, sample in enumerate(samples)
            if sample.said(language) and (false := negatives(sample, language))
        ]
        rows, captions, categories = zip(*some, strict=True) if some else ((), (), ())
        return cls(np.array(rows, np.int64), captions, categories)

    @property
    def counts(self) -> Ints:
        """[Q] number of false captions."""
        return np.array([len(captions) - 1 for captions in self.captions], np.int64)


def negatives(sample: Sample, language: str) -> list[str]:
    """The false captions in a language; a plain list belongs to the first language that the sample has a caption in."""
    value = sample.metadata.get("negatives")
    if isinstance(value, Mapping):
        value = value.get(language)
    elif language != next(iter(sample.captions), ""):
        value = None
    values = [value] if isinstance(value, str) else value
    return [text for text in values if isinstance(text, str) and text.strip()] if isinstance(values, list) else []


@dataclass(frozen=True, kw_only=True)
class CaptionChoice(Task):
    """Share of pictures whose true caption scores above all false ones, and of false captions that score below."""

    languages: tuple[str, ...] = ()
    """languages of captions; none: every language in which pictures have false captions"""

    @property
    def primary(self) -> str:
        """The share of pictures whose true caption is preferred to all others, in the first language."""
        return f"{(self.languages or ('en',))[0]}/caption_choice/accuracy"

    def chosen(self, split: Split) -> dict[str, Choices]:
        """language -> its choices, where there are any."""
        every = {language: Choices.gather(split.samples, language) for language in self.languages or split.languages}
        return {language: choices for language, choices in every.items() if len(choices.rows)}

    def unfit(self, split: Split) -> str:
        """No false captions. Raises UserError if there are none in a language that was asked for."""
        have = self.chosen(split)
        for language in self.languages:
            if language not in have:
                raise UserError(
                    f'{split.spec} has no false captions in "{language}": they stand in the field "negatives" of a '
                    "sample, as a list or as a list for each language, beside a true caption"
                )
        return "" if have else 'it has no false captions (the field "negatives")'

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LANGUAGE/caption_choice/accuracy` and `.../pairwise`, and where samples have a `category` also
        `.../per_category`, the mean of the categories' accuracies, and `.../CATEGORY/accuracy`.

        Raises UserError as `unfit` does, and where there is nothing to choose.
        """
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} has no captions to choose from: {reason}")
        result: dict[str, Measured] = {}
        for language, choices in self.chosen(split).items():
            below = np.concatenate(list(shares_below(split, choices)))
            result |= self._one_language(split, language, choices, below)
        return result

    def _one_language(
        self, split: EmbeddedSplit, language: str, choices: Choices, below: Floats
    ) -> dict[str, Measured]:
        keys = np.array([split.keys[row] for row in choices.rows], object)
        name, label = f"{language}/caption_choice", (in_words(language), "choice of the caption")
        hits = (below == 1).astype(np.float64)
        chance = 1 / (1 + choices.counts)
        candidates = round(float(1 + choices.counts.mean()))

        def measured(words: Presentation, values: Floats, by_chance: Floats, groups: Ints | None = None) -> Measured:
            return mean_of(
                values,
                tuple(keys),
                candidates=candidates,
                chance=float(by_chance.mean()),
                seed=self.seed,
                groups=groups,
                presentation=words,
            )

        result = {f"{name}/accuracy": measured(_accuracy(label), hits, chance)}
        pairs = Presentation(
            label, "pairs", "Pairs: the share of a picture's false captions that score below the true one."
        )
        result[f"{name}/pairwise"] = measured(pairs, below, np.full(len(below), 0.5))
        categories, group = np.unique(np.array(choices.categories), return_inverse=True)
        if len(categories) > 1:
            mean = Presentation(label, "per category", "Per category: the accuracies of all categories, averaged.")
            result[f"{name}/per_category"] = measured(mean, hits, chance, group)
        for number, category in enumerate(categories):
            if category:
                own = group == number
                result[f"{name}/{category}/accuracy"] = mean_of(
                    hits[own],
                    tuple(keys[own]),
                    candidates=candidates,
                    chance=float(chance[own].mean()),
                    seed=self.seed,
                    presentation=_accuracy((*label, str(category))),
                )
        return result


def _accuracy(label: tuple[str, ...]) -> Presentation:
    return Presentation(
        label,
        "accuracy",
        "Accuracy of a choice: the share of pictures whose true caption scores above every false one.",
        headline="Given a picture, it prefers the true one of {candidates} captions, {value} of the time.",
        primary=True,
    )


def shares_below(split: EmbeddedSplit, choices: Choices) -> Iterator[Floats]:
    """[n] the share of each picture's false captions that score below its true one, some pictures at a time."""
    for start in range(0, len(choices.rows), PICTURES_AT_ONCE):
        some = slice(start, start + PICTURES_AT_ONCE)
        captions = choices.captions[some]
        texts = list(dict.fromkeys(text for own in captions for text in own))
        number = {text: i for i, text in enumerate(texts)}
        vectors = np.asarray(split.release.embed_texts(texts), np.float32)
        shares = []
        for row, own in zip(choices.rows[some], captions, strict=True):
            scores = vectors[[number[text] for text in own]] @ split.image[row]
            if not np.isfinite(scores).all():
                raise UserError(f"a score on {split.spec} is NaN or infinite: the model's embeddings are broken")
            shares.append(float((scores[1:] < scores[0] - ROUNDING).mean()))
        yield np.array(shares)
