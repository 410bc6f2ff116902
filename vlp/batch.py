"""The only things that pass between data, model and loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B image-text pairs, as the stream hands them over.

    A field is a tensor whose first dimension is B, a tuple of B things, or None. Whatever is done to batches is done to
    every field that is declared here.
    """

    image: Tensor  # [B, 3, H, W], uint8 (the model normalises on its device) or float; [B, V, 3, H, W] with V views
    text: Tensor  # [B, L] token ids, 0-padded, trimmed to the longest; or [B, K, L] with K captions a picture
    keys: tuple[str, ...]  # (B,) names of the samples, for logs and ledgers
    ids: Tensor | None = None  # [B] int64; pairs with equal ids are positives of each other
    weights: Tensor | None = None  # [B] float32, weight of each pair in the loss; None means 1
    shards: tuple[str, ...] | None = None  # (B,) what each sample was read from, as the ledger names it
    numbers: Tensor | None = None  # [B] int64, the number of each sample in the stream, the same in every epoch
    negatives: Tensor | None = None  # [B, K, L] token ids of captions that are wrong for their own picture
    negatives_keep: Tensor | None = None  # [B, K] bool, False where a pair has fewer than K such captions
    teacher_text: Tensor | None = None  # [B, L] or [B, K, L] the captions of `text` as a teacher's tokenizer has them

    def __len__(self) -> int:
        return self.text.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; copies from pinned memory do not block."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory, from which copies to a GPU do not block."""
        return self._with_tensors(Tensor.pin_memory)

    def __getitem__(self, rows: slice) -> Batch:
        """The pairs of `rows`, as a batch of their own (views, no copies)."""
        return self._changed(lambda column: None if column is None else column[rows])

    def take(self, rows: Tensor) -> Batch:
        """The pairs with the numbers `rows` [n], in that order, as a batch of their own (copies)."""
        numbers = rows.tolist()
        return self._changed(
            lambda column: (
                column[rows]
                if isinstance(column, Tensor)
                else (None if column is None else tuple(column[n] for n in numbers))
            )
        )

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return self._changed(lambda column: change(column) if isinstance(column, Tensor) else column)

    def _changed(self, change: Callable[[Any], Any]) -> Batch:
        """The batch with every field changed."""
        columns: dict[str, Any] = {field.name: change(getattr(self, field.name)) for field in fields(self)}
        return type(self)(**columns)


@dataclass(frozen=True)
class Embeddings:
    """The output of the towers for a batch, and all that a loss may see."""

    image: Tensor  # [B, D], unit norm; [B, V, D] with V views a picture (the step gives losses one at a time)
    text: Tensor  # [B, D], unit norm; [B, K, D] with K captions a picture (the step gives losses one block at a time)
    scale: Tensor  # [] the logit scale, 1 / temperature (already exponentiated)
    bias: Tensor  # [] the logit bias, 0 where the objective has none
    ids: Tensor | None = None  # [B] int64, as in Batch; or [B, I]: alike are pairs that share one of I ids
    weights: Tensor | None = None  # [B] float32, as in Batch
    negatives: Tensor | None = None  # [B, K, D], unit norm: captions that are negatives of their own image only
    negatives_keep: Tensor | None = None  # [B, K] bool, False where a pair has fewer than K such captions
    guide_image: Tensor | None = None  # [B, G] what a teacher says of the images, without gradient
    guide_text: Tensor | None = None  # [B, G] and of the captions; or [B, K, G], as text
    marks: Tensor | None = None  # [B, M] numbers of each pair that a loss reads, without gradient
    bank_image: Tensor | None = None  # [Q, D] earlier images, negatives of captions: all, or a rank's part of them
    bank_text: Tensor | None = None  # [Q, D] earlier captions, negatives of images
    bank_guide_image: Tensor | None = None  # [Q, G] what a teacher said of them
    bank_guide_text: Tensor | None = None  # [Q, G]
    learnt: Mapping[str, Tensor] | None = None  # the objective's own weights, which the model owns

    @property
    def precision(self) -> torch.dtype:
        """In what losses compute cosines: float32 at least."""
        return torch.promote_types(self.image.dtype, torch.float32)
