"""Texts without padding: several captions share a row, and none sees another.

A batch of captions is as wide as its longest, and most of it is padding. Here the captions of a batch are laid one
after the other into as few rows as they need; attention is kept within each caption, which keeps its own positions.
Towers with causal attention that read the end mark give the same features, but for rounding: what comes after the end
mark never reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

LEAST_ROW = 32  # tokens: rows as short as the shortest captions would be filled badly


@dataclass(frozen=True)
class Plan:
    """Where the tokens of a batch go: R rows of W places."""

    source: Tensor  # [R, W] int64: number of a token among the B x L of the batch; 0 where a place is empty
    position: Tensor  # [R, W] int64: its place in its own caption
    caption: Tensor  # [R, W] int64: its caption; empty places have numbers of their own, below 0
    end: Tensor  # [B] int64: where the last token of each caption went, among R x W


def plan(lengths: Tensor, context: int) -> Plan:
    """Rows for captions of these `lengths` [B], of a batch `context` wide: side by side, the longest that fits."""
    width = max(LEAST_ROW, int(lengths.max()))
    left: list[list[int]] = [[] for _ in range(width + 1)]  # captions that have no place yet, by length
    for number, length in enumerate(lengths.tolist()):
        left[length].append(number)
    begin = torch.empty_like(lengths)
    longest, row = width, 0
    while longest := next((n for n in range(longest, 0, -1) if left[n]), 0):
        used = 0
        while fitting := next((n for n in range(min(longest, width - used), 0, -1) if left[n]), 0):
            begin[left[fitting].pop()] = row * width + used
            used += fitting
        row += 1
    caption = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    position = torch.arange(len(caption)) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    place = begin[caption] + position
    owner = -1 - torch.arange(row * width)
    owner[place] = caption
    source, where = torch.zeros_like(owner), torch.zeros_like(owner)
    source[place], where[place] = caption * context + position, position
    shape = (row, width)
    return Plan(source.view(shape), where.view(shape), owner.view(shape), begin + lengths - 1)


class PackedTextTransformer(TextTransformer):  # type: ignore[misc]
    """open_clip's text transformer, which packs its texts while it is trained on a CPU.

    It stays as it is on a GPU, which would have to wait for the lengths, and where it is compiled, once for each number
    of rows.
    """

    @staticmethod
    def can_pack(tower: nn.Module) -> bool:
        """Whether `tower` gives the same features for packed texts: causal, read at the end mark, no class token."""
        return (
            type(tower) is TextTransformer
            and tower.attn_mask is not None
            and tower.cls_emb is None
            and not tower.use_pad_mask
            and tower.pool_type == "argmax"
            and not tower.output_tokens
        )

    def forward(self, text: Tensor) -> Tensor:
        """Features [B, width] of token ids [B, L]."""
        if self.training and text.device.type == "cpu" and not torch.compiler.is_compiling():
            lengths = text.argmax(dim=-1) + 1  # the end mark has the greatest number of all tokens
            return self.packed(text, plan(lengths.cpu(), text.shape[1]))
        return self.short(text) if text.shape[1] < self.num_pos else super().forward(text)

    @staticmethod
    def trimmed(text: Tensor) -> Tensor:
        """Token ids [B, L] without the columns that are padding in all of them: their features are the same."""
        return text[:, : int(text.argmax(dim=-1).max()) + 1]

    def short(self, text: Tensor) -> Tensor:
        """Features [B, width] of `trimmed` texts [B, L]: open_clip's own forward wants the whole context."""
        kind, (count, length) = self.transformer.get_cast_dtype(), text.shape
        x = self.token_embedding(text).to(kind) + self.positional_embedding[:length].to(kind)
        x = self.transformer(x, attn_mask=self.attn_mask[:length, :length])
        return self._projected(x[torch.arange(count, device=text.device), text.argmax(dim=-1)])

    def packed(self, text: Tensor, where: Plan) -> Tensor:
        """Features [B, width] of the texts laid out as `where` says."""
        source, position = where.source.to(text.device), where.position.to(text.device)
        kind = self.transformer.get_cast_dtype()
        x = self.token_embedding(text.flatten()[source]).to(kind) + self.positional_embedding[position].to(kind)
        x = self.transformer(x, attn_mask=self.within(where.caption.to(text.device), kind))
        return self._projected(x.flatten(0, 1)[where.end.to(text.device)])

    def _projected(self, x: Tensor) -> Tensor:
        """Features [B, width] of what stands at the end marks [B, hidden]."""
        x = self.ln_final(x)
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)  # type: ignore[no-any-return]
        return x if self.text_projection is None else x @ self.text_projection  # type: ignore[no-any-return]

    def within(self, caption: Tensor, kind: torch.dtype) -> Tensor:
        """What is added to attention logits [R x heads, W, W]: 0 for earlier tokens of the same caption, or -inf."""
        width = caption.shape[1]
        earlier = torch.ones(width, width, dtype=torch.bool, device=caption.device).tril()
        same = (caption[:, :, None] == caption[:, None, :]) & earlier
        mask = torch.zeros(same.shape, dtype=kind, device=caption.device).masked_fill_(~same, float("-inf"))
        return mask.repeat_interleave(self.heads, 0)
