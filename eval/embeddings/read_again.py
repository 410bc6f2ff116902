"""The pictures of a split that is embedded already, read once more, for what must be done to their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from data_pipelines.ledger import Ledger
from eval.embeddings.encode import pixels_of
from vlp.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipelines.sample import Sample
    from eval.embeddings.split import EmbeddedSplit


def pixels_again(split: EmbeddedSplit) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the split, and their pictures as its model is given them, uint8 [n, 3, H, W], some at a time.

    They come from the dataset and not from memory, where a large one has no room. Raises UserError if it is no longer
    what it was.
    """
    at, count = 0, len(split.samples)
    for place, samples in split.dataset.blocks(Ledger(), skip_damaged=True):
        own: list[Sample] = []
        for sample in samples:
            if at + len(own) < count and sample.key == split.samples[at + len(own)].key:
                own.append(sample)
        kept, pixels = pixels_of(own, place, split.release.transform, Ledger())
        if len(kept) < len(own):
            break
        if own:
            yield slice(at, at + len(own)), pixels
            at += len(own)
    if at < count:
        raise UserError(f"{split.spec} changed while it was evaluated: {at:,} of {count:,} pictures are as they were")
