"""How long the texts of a batch are: a few lengths only, where each is compiled on its own."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from vlp.batch import Batch


def in_bucket(batch: Batch, multiple: int, context: int) -> Batch:
    """`batch` with texts of a multiple of `multiple` tokens, at most `context`: the least that the longest needs.

    It is for towers that do not see padding (0), and best called before a batch goes to its device: it looks at ids.
    """
    longest = max(length(batch.text), 0 if batch.negatives is None else length(batch.negatives))
    wanted = min(-(-max(longest, 1) // multiple) * multiple, max(context, longest))
    negatives = None if batch.negatives is None else padded(batch.negatives, wanted)
    return replace(batch, text=padded(batch.text, wanted), negatives=negatives)


def padded(text: Tensor, tokens: int) -> Tensor:
    """Texts [..., L] as [..., tokens], padding at the end left out or added."""
    text = text[..., :tokens]
    return F.pad(text, (0, tokens - text.shape[-1]))


def length(text: Tensor) -> int:
    """Tokens of the longest of texts [..., L], padding at the end left out."""
    used = (text != 0).flatten(0, -2).any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0
