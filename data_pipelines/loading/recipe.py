"""How samples become pairs of a batch, wherever they come from: the same in every process."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipelines import decode
from data_pipelines.captions import choose_several, concept_id, number_at
from data_pipelines.ledger import FILTERED
from data_pipelines.negatives import Negatives
from data_pipelines.settings import Captions, Decoding
from vlp.batch import Batch
from vlp.pictures import Limits

Tokenizer = Callable[[list[str]], Tensor]


class Drop(Exception):
    """This sample is not delivered; the text is one of the ledger's reasons."""


class Origin(NamedTuple):
    """Where a sample comes from."""

    key: str
    shard: str
    chance: int  # of what follows from (seed, epoch, sample) alone
    number: int | None = None  # None where samples have none


class Pair(NamedTuple):
    """What a sample gives to a batch besides its picture."""

    texts: tuple[str, ...]
    key: str
    concept: int
    shard: str
    number: int | None
    weight: float
    wrong: tuple[str, ...]  # captions that are nearly those of the picture


@dataclass(frozen=True)
class Recipe:
    """What is said of a picture, how it is decoded and tokenized, and how much may be lost."""

    captions: Captions
    decoding: Decoding
    ids: str
    weights: str
    negatives: Negatives
    views: int
    drop_budget: float
    cache_bytes: int
    transform: decode.Transform
    tokenizer: Tokenizer
    seed: int
    teacher: Tokenizer | None = None
    """of a teacher that reads other tokens"""

    @property
    def limits(self) -> Limits:
        """Which pictures are decoded."""
        return Limits(self.decoding.most_pixels, self.decoding.min_side)

    def pair(self, record: Mapping[str, Any], origin: Origin, rng: random.Random, *, garbled: bool) -> Pair:
        """The captions that are drawn from a sample's record, those that are wrong, its concept and its weight.

        `garbled`: a part of the record could not be read. Raises Drop.
        """
        texts = choose_several(record, self.captions.weights, self.captions.texts, rng)
        if not texts:
            raise Drop("undecodable caption" if garbled else "missing caption")
        if any("\0" in text for text in texts):
            raise Drop("undecodable caption")
        if min(map(len, texts)) < self.captions.min_chars:
            raise Drop(FILTERED)
        weight = number_at(record, self.weights) if self.weights else 1.0
        if weight is None:
            raise Drop("missing weight")
        concept = concept_id(record, self.ids) if self.ids else 0
        wrong = self.negatives.of(texts[0], random.Random(origin.chance)) if self.negatives.count else ()
        return Pair(texts, origin.key, concept, origin.shard, origin.number, weight, wrong)

    def batch(self, image: Tensor, pairs: Sequence[Pair]) -> Batch:
        """The batch of `pairs` whose pictures are in `image` [B, 3, H, W]; text is [B, L], or [B, K, L] for K > 1."""
        said = [text for pair in pairs for text in pair.texts]
        text = self.tokens(self.tokenizer, said)
        teacher_text = None if self.teacher is None else self.tokens(self.teacher, said)
        ids = torch.tensor([pair.concept for pair in pairs], dtype=torch.int64) if self.ids else None
        weights = torch.tensor([pair.weight for pair in pairs], dtype=torch.float32) if self.weights else None
        known = [pair.number for pair in pairs if pair.number is not None]
        numbers = torch.tensor(known, dtype=torch.int64) if len(known) == len(pairs) else None
        keys, shards = tuple(pair.key for pair in pairs), tuple(pair.shard for pair in pairs)
        wrong, there = self._wrong(pairs)
        return Batch(image, text, keys, ids, weights, shards, numbers, wrong, there, teacher_text)

    def tokens(self, tokenizer: Tokenizer, said: list[str]) -> Tensor:
        """[B, L] ids of B captions, or [B / K, K, L] of K captions a picture."""
        tokens, count = tokenizer(said), self.captions.texts
        return tokens if count == 1 else tokens.view(len(said) // count, count, -1)

    def _wrong(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Tokens [B, K, L] of wrong captions, and which are there [B, K]: a true caption has the others' places."""
        count = self.negatives.count
        if not count:
            return None, None
        filled = [text for pair in pairs for text in (*pair.wrong, *pair.texts[:1] * (count - len(pair.wrong)))]
        keep = [[k < len(pair.wrong) for k in range(count)] for pair in pairs]
        return self.tokenizer(filled).view(len(pairs), count, -1), torch.tensor(keep)

    def memory(self, pairs: int) -> Tensor:
        """Uninitialised memory [pairs, 3, H, W] for pictures as the transform makes them; [pairs, V, 3, H, W]."""
        return decode.batch_memory(pairs, self.shape, self.probe.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what a sample shows: (3, H, W), or (V, 3, H, W) with V views."""
        return (*((self.views,) if self.views > 1 else ()), *self.probe.shape)

    def show(self, out: Tensor, picture: bytes, rng: random.Random) -> None:
        """Write the views of an encoded picture into `out`. Raises Refused."""
        if self.views > 1:
            self.show_decoded(out, decode.pixels(picture, self.limits), rng)
        else:
            decode.fill(out, picture, self.transform, rng, self.limits)

    def show_decoded(self, out: Tensor, pixels: decode.Pixels, rng: random.Random) -> None:
        """Write the views of a decoded picture into `out`, each drawn by itself."""
        for view in out if self.views > 1 else (out,):
            decode.fill_from(view, pixels, self.transform, rng)

    @cached_property
    def probe(self) -> Tensor:
        """A picture as the transform makes them [3, H, W], to learn their size and type."""
        from PIL import Image as pil

        return self.transform(pil.new("RGB", (256, 256)), random.Random(0))
