"""Two languages over the same pictures: which is understood better, whether they agree, and translation by nearness.

A query is a caption in both languages at once: the first ones of a picture. Pictures that lack one take no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from data_pipelines.captions import normalised
from eval.embeddings.split import EmbeddedSplit, Split
from eval.languages import in_words
from eval.metrics.agreement import overlap, spearman
from eval.metrics.ranking import SCORES_IN_MEMORY, Floats, Ints, Relevant, first_relevant_rank
from eval.tasks import Measured, Presentation, Task, mean_of, measure_recall
from vlp.config.bounds import Count
from vlp.errors import UserError


@dataclass(frozen=True)
class Twins:
    """The pairs of captions in two languages, each once, and which picture has which."""

    rows: Ints  # [N] rows of the pictures that have both
    captions: tuple[tuple[str, ...], tuple[str, ...]]  # [2][Q] as first written
    own: tuple[Ints, Ints]  # [2][N] number of each picture's caption among the language's different ones
    texts: tuple[tuple[str, ...], tuple[str, ...]]  # [2][T] the different captions of each language
    pairs: NDArray[np.int64]  # [Q, 2] the pairs, as numbers of `texts`

    @classmethod
    def gather(cls, split: Split, languages: tuple[str, str]) -> Twins:
        """The pairs of a split."""
        rows: list[int] = []
        number: tuple[dict[str, int], dict[str, int]] = ({}, {})
        texts: tuple[list[str], list[str]] = ([], [])
        own: tuple[list[int], list[int]] = ([], [])
        for row, sample in enumerate(split.samples):
            both = [sample.said(language) for language in languages]
            if not all(both):
                continue
            rows.append(row)
            for side, said in enumerate(both):
                form = normalised(said[0])
                if form not in number[side]:
                    number[side][form] = len(texts[side])
                    texts[side].append(said[0])
                own[side].append(number[side][form])
        pairs = np.array(list(dict.fromkeys(zip(*own, strict=True))), np.int64).reshape(-1, 2)
        first, second = (tuple(texts[side][i] for i in pairs[:, side]) for side in (0, 1))
        a, b = (np.array(some, np.int64) for some in own)
        return cls(np.array(rows, np.int64), (first, second), (a, b), (tuple(texts[0]), tuple(texts[1])), pairs)

    @property
    def keys(self) -> tuple[str, ...]:
        """[Q] both captions of each pair."""
        return tuple(f"{first} | {second}" for first, second in zip(*self.captions, strict=True))

    def pictures(self, side: int) -> Relevant:
        """Which pictures have the caption that a pair has on this side."""
        order = np.argsort(self.own[side], kind="stable")
        starts = np.searchsorted(self.own[side][order], np.arange(len(self.texts[side]) + 1))
        wanted = self.pairs[:, side]
        counts = starts[wanted + 1] - starts[wanted]
        ids = np.concatenate([order[starts[text] : starts[text + 1]] for text in wanted])
        return Relevant.from_pairs(np.repeat(np.arange(len(wanted)), counts), ids)


@dataclass(frozen=True, kw_only=True)
class Bilingual(Task):
    """Recall@K of the same captions in two languages, paired difference, agreement, and text-to-text retrieval."""

    first: str = "en"
    """one language of the captions"""
    second: str = "zh"
    """the other language"""
    ks: tuple[Count, ...] = (1, 5, 10)
    """the K of Recall@K"""
    overlap_at: Count = 10
    """how many of the first pictures are compared"""

    @property
    def languages_in_words(self) -> tuple[str, str]:
        """Both, as reports say them."""
        return in_words(self.first), in_words(self.second)

    @property
    def primary(self) -> str:
        """The difference of the two languages in Recall@K, of the least K."""
        return f"bilingual/{self.first}-{self.second}/recall@{min(self.ks)}"

    def unfit(self, split: Split) -> str:
        """Fewer than two pictures with captions in both languages."""
        both = [sample for sample in split.samples if sample.said(self.first) and sample.said(self.second)]
        return "" if len(both) > 1 else f'it has no pictures with captions in both "{self.first}" and "{self.second}"'

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`bilingual/LANGUAGE/recall@K` of each, `bilingual/FIRST-SECOND/recall@K` (the first's less the second's),
        `bilingual/rank_correlation`, `bilingual/overlap@K`, and `bilingual/FIRST_to_SECOND/recall@1` both ways.

        Raises UserError if no pictures have captions in both.
        """
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be compared in two languages: {reason}")
        twins = Twins.gather(split, (self.first, self.second))
        embed = split.release.embed_texts
        texts = [np.asarray(embed(twins.texts[side]), np.float32) for side in (0, 1)]
        queries = [texts[side][twins.pairs[:, side]] for side in (0, 1)]
        image = split.image[twins.rows]
        result = self._to_pictures(twins, queries, image)
        result |= self._agreement(twins, queries, image)
        for side, (one, other) in enumerate(((self.first, self.second), (self.second, self.first))):
            relevant = Relevant.from_pairs(twins.pairs[:, side], twins.pairs[:, 1 - side])
            result[f"bilingual/{one}_to_{other}/recall@1"] = measure_recall(
                first_relevant_rank(texts[side], texts[1 - side], relevant),
                relevant,
                k=1,
                keys=twins.texts[side],
                candidates=len(texts[1 - side]),
                seed=self.seed,
                presentation=_recall((f"{in_words(one)} → {in_words(other)}", "text → text"), 1),
            )
        return result

    def _to_pictures(self, twins: Twins, queries: list[Floats], image: Floats) -> dict[str, Measured]:
        relevant = [twins.pictures(side) for side in (0, 1)]
        ranks = [first_relevant_rank(queries[side], image, relevant[side]) for side in (0, 1)]
        result: dict[str, Measured] = {}
        for side, language in enumerate((self.first, self.second)):
            for k in self.ks:
                result[f"bilingual/{language}/recall@{k}"] = measure_recall(
                    ranks[side],
                    relevant[side],
                    k=k,
                    keys=twins.keys,
                    candidates=len(image),
                    seed=self.seed,
                    presentation=_recall((in_words(language), "same captions in both languages"), k),
                )
        explains = "Difference: the recall of the first language less that of the second, query by query."
        for k in self.ks:
            result[f"bilingual/{self.first}-{self.second}/recall@{k}"] = mean_of(
                (ranks[0] < k).astype(np.float64) - (ranks[1] < k),
                twins.keys,
                candidates=len(image),
                chance=None,
                seed=self.seed,
                unit="score",
                presentation=Presentation((" less ".join(self.languages_in_words),), f"R@{k}", explains),
            )
        return result

    def _agreement(self, twins: Twins, queries: list[Floats], image: Floats) -> dict[str, Measured]:
        """Whether both languages put all pictures in the same order, and have the same ones first."""
        step = max(1, SCORES_IN_MEMORY // 8 // len(image))
        correlation, common = [], []
        for start in range(0, len(twins.pairs), step):
            both = [some[start : start + step] @ image.T for some in queries]
            correlation.append(spearman(both[0], both[1]))
            common.append(overlap(both[0], both[1], self.overlap_at))
        k = min(self.overlap_at, len(image))
        label = (" and ".join(self.languages_in_words), "agreement")
        of = partial(mean_of, keys=twins.keys, candidates=len(image), seed=self.seed)
        correlated = Presentation(
            label, "rank correlation", "Rank correlation: Spearman's, of the two orders of all pictures.", primary=True
        )
        shared = Presentation(label, f"overlap@{k}", f"Overlap: the share of the first {k} pictures that both have.")
        return {
            "bilingual/rank_correlation": of(
                np.concatenate(correlation), chance=0.0, unit="score", presentation=correlated
            ),
            f"bilingual/overlap@{k}": of(np.concatenate(common), chance=k / len(image), presentation=shared),
        }


def _recall(label: tuple[str, ...], k: int) -> Presentation:
    return Presentation(
        label, f"R@{k}", "R@K: the share of queries with a right answer among the first K.", primary=k == 1
    )
