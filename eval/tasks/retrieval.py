"""Image-text retrieval both ways, in each language (protocol of Karpathy and Li 2015, with duplicated captions known).

A picture is answered by any of its own captions (COCO and Flickr30k have five). Every caption is a query. Several
pictures may share a caption: equal captions are made one, which is answered by every picture that has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from annotated_types import Ge

from data_pipelines.captions import normalised
from eval.embeddings.split import EmbeddedSplit, Split
from eval.languages import in_words
from eval.metrics.ranking import Ints, Relevant
from eval.search.searched import Searched
from eval.tasks import Measured, Presentation, measure_recall
from vlp.errors import UserError


@dataclass(frozen=True)
class Captions:
    """The unique captions of one language, and which picture has which."""

    texts: tuple[str, ...]  # (N,) unique, as first written
    pictures: tuple[int, ...]  # (P,) picture of each pair
    captions: tuple[int, ...]  # (P,) caption of each pair

    @classmethod
    def gather(cls, captions: Iterable[Iterable[str]]) -> Captions:
        """From the captions of every picture; pictures without one take no part.

        >>> Captions.gather([["a cat"], [], ["A cat", "pet"]])
        Captions(texts=('a cat', 'pet'), pictures=(0, 2, 2), captions=(0, 0, 1))
        """
        number: dict[str, int] = {}
        texts: list[str] = []
        pairs: list[tuple[int, int]] = []
        for picture, own in enumerate(captions):
            for text in own:
                form = normalised(text)
                if form not in number:
                    number[form] = len(texts)
                    texts.append(text)
                pairs.append((picture, number[form]))
        pictures, chosen = zip(*pairs, strict=True) if pairs else ((), ())
        return cls(tuple(texts), pictures, chosen)


WAYS = {"image_to_text": "picture → caption", "text_to_image": "caption → picture"}


@dataclass(frozen=True, kw_only=True)
class Retrieval(Searched):
    """Recall@K from picture to caption and from caption to picture."""

    languages: tuple[str, ...] = ()
    """languages of captions (en, zh, ...), or fields: txt, tags.en, any .json path; none: every language there is"""
    ks: tuple[Annotated[int, Ge(1)], ...] = (1, 5, 10)
    """the K of Recall@K"""

    @property
    def primary(self) -> str:
        """Recall@K of the first language and the least K, from picture to caption."""
        return f"{(self.languages or ('en',))[0]}/image_to_text/recall@{min(self.ks)}"

    def unfit(self, split: Split) -> str:
        """No captions at all. Raises UserError if there are none in a language that was asked for."""
        for language in self.languages:
            if not any(sample.said(language) for sample in split.samples):
                have = ", ".join((*split.languages, *split.text_fields)) or "none"
                raise UserError(f'{split.spec} has no captions in "{language}"; it has texts in: {have}')
        return "" if self.languages or split.languages else "it has no captions"

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LANGUAGE/image_to_text/recall@K` and `LANGUAGE/text_to_image/recall@K`.

        Raises UserError if there are no captions, or none in a language that was asked for.
        """
        if reason := self.unfit(split):
            raise UserError(f"{split.spec} cannot be searched: {reason}")
        result: dict[str, Measured] = {}
        for language in self.languages or split.languages:
            captions = Captions.gather(sample.said(language) for sample in split.samples)
            result |= self._one_language(split, language, captions)
        return result

    def _one_language(self, split: EmbeddedSplit, language: str, captions: Captions) -> dict[str, Measured]:
        pictures, picture = np.unique(captions.pictures, return_inverse=True)
        image = split.image[pictures]  # [Q, D]
        text = np.asarray(split.release.embed_texts(captions.texts), np.float32)  # [N, D]
        keys = tuple(split.keys[number] for number in pictures)
        result: dict[str, Measured] = {}
        for way, queries, by, candidates, relevant in (
            ("image_to_text", image, keys, text, Relevant.from_pairs(picture, captions.captions)),
            ("text_to_image", text, captions.texts, image, Relevant.from_pairs(captions.captions, picture)),
        ):
            measure = partial(
                self._recalls, f"{language}/{way}", relevant=relevant, keys=by, candidates=len(candidates)
            )
            result |= self.ranked(queries, candidates, relevant, measure, most=max(self.ks))
        return result

    def _recalls(
        self, name: str, ranks: Ints, *, relevant: Relevant, keys: tuple[str, ...], candidates: int
    ) -> dict[str, Measured]:
        """`NAME/recall@K`, where NAME is LANGUAGE/WAY."""
        language, _, way = name.rpartition("/")
        return {
            f"{name}/recall@{k}": measure_recall(
                ranks,
                relevant,
                keys=keys,
                candidates=candidates,
                k=k,
                seed=self.seed,
                presentation=self._presentation(language, way, k),
            )
            for k in self.ks
        }

    def _presentation(self, language: str, way: str, k: int) -> Presentation:
        least = k == min(self.ks)
        first = "first" if k == 1 else f"among its first {k}"
        sentence = f"Given a caption, it picks the right one of {{candidates}} pictures {first}, {{value}} of the time."
        return Presentation(
            label=(in_words(language), WAYS[way]),
            measure=f"R@{k}",
            explains="R@K: the share of queries with a right answer among the first K.",
            headline=sentence if least and way == "text_to_image" else "",
            primary=least,
        )
