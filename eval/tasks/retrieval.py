"""Image-text retrieval both ways, in each language (protocol of Karpathy and Li 2015, with duplicated captions known).

A picture is answered by any of its own captions (COCO and Flickr30k have five). Every caption is a query. Several
pictures may share a caption: equal captions are made one, which is answered by every picture that has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data_pipelines.captions import normalised
from eval.embeddings.split import EmbeddedSplit
from eval.metrics.ranking import Relevant, first_relevant_rank
from eval.tasks import Measured, Task, measure_recall
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


@dataclass(frozen=True, kw_only=True)
class Retrieval(Task):
    """Recall@K from picture to caption and from caption to picture."""

    languages: tuple[str, ...] = ()
    """languages of captions to evaluate (or fields, such as tags.en); none means every language that the data have"""
    ks: tuple[int, ...] = (1, 5, 10)
    """the K of Recall@K"""

    @property
    def primary(self) -> str:
        """Recall@K of the first language and the least K, from picture to caption."""
        return f"{(self.languages or ('en',))[0]}/image_to_text/recall@{min(self.ks)}"

    def measure(self, split: EmbeddedSplit) -> dict[str, Measured]:
        """`LANGUAGE/image_to_text/recall@K` and `LANGUAGE/text_to_image/recall@K`.

        Raises UserError if a language that was asked for has no captions.
        """
        found: dict[str, Measured] = {}
        for language in self.languages or split.languages:
            captions = Captions.gather(sample.said(language) for sample in split.samples)
            if not captions.texts:
                have = ", ".join(split.languages) or "none"
                raise UserError(f'{split.spec} has no captions in language "{language}"; it has: {have}')
            found |= {f"{language}/{name}": m for name, m in self._one_language(split, captions).items()}
        return found

    def _one_language(self, split: EmbeddedSplit, captions: Captions) -> dict[str, Measured]:
        pictures, picture = np.unique(captions.pictures, return_inverse=True)
        image = split.image[pictures]  # [Q, D]
        text = np.asarray(split.release.embed_texts(captions.texts), np.float32)  # [N, D]
        found: dict[str, Measured] = {}
        for way, queries, candidates, relevant in (
            ("image_to_text", image, text, Relevant.from_pairs(picture, captions.captions)),
            ("text_to_image", text, image, Relevant.from_pairs(captions.captions, picture)),
        ):
            ranks = first_relevant_rank(queries, candidates, relevant)
            for k in self.ks:
                found[f"{way}/recall@{k}"] = measure_recall(
                    ranks, relevant, candidates=len(candidates), k=k, seed=self.seed
                )
        return found
