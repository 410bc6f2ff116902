"""nn.MultiheadAttention with linear layers for projections: what adapts linear layers can then adapt an attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OpenAttention(nn.Module):
    """The same function as the nn.MultiheadAttention whose weights it takes over; `closed` gives that back.

    peft's own wrapper of an attention adds the adapter to the frozen weight and subtracts it again in every forward
    pass, so that the weight drifts with rounding; here it stays what it is.
    """

    batch_first = True
    in_proj_bias = None  # nn.TransformerEncoderLayer asks for it, and then leaves its fast path alone

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.dropout = attention.num_heads, attention.dropout
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        with torch.device("meta"):
            self.in_proj = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            self.out_proj = nn.Linear(weight.shape[1], weight.shape[1], bias=attention.out_proj.bias is not None)
        self.in_proj.weight, self.in_proj.bias = weight, bias
        self.out_proj.weight, self.out_proj.bias = attention.out_proj.weight, attention.out_proj.bias

    @staticmethod
    def takes(module: nn.Module) -> bool:
        """Whether a module is an attention that this can stand for: one width, batch first, no extra keys."""
        return (
            isinstance(module, nn.MultiheadAttention)
            and module.in_proj_weight is not None
            and module.batch_first
            and module.bias_k is None
            and not module.add_zero_attn
        )

    def closed(self) -> nn.MultiheadAttention:
        """The nn.MultiheadAttention with these weights."""
        out = self.out_proj
        with torch.device("meta"):
            bias = self.in_proj.bias is not None
            plain = nn.MultiheadAttention(out.in_features, self.heads, self.dropout, bias=bias, batch_first=True)
        plain.in_proj_weight = nn.Parameter(self.in_proj.weight, self.in_proj.weight.requires_grad)
        plain.in_proj_bias = self.in_proj.bias
        plain.out_proj.weight, plain.out_proj.bias = out.weight, out.bias
        return plain.train(self.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """[B, L, D] of queries [B, L, D], keys and values [B, S, D]; masks as nn.MultiheadAttention's, no weights."""
        if query is key is value:
            q, k, v = self.in_proj(query).chunk(3, -1)
        else:
            q, k, v = (self.in_proj(x).chunk(3, -1)[i] for i, x in enumerate((query, key, value)))
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v))
        mask = None if attn_mask is None else added(attn_mask, q.dtype)
        if mask is not None and mask.ndim == 3:  # [B · heads, L, S]
            mask = mask.view(-1, self.heads, *mask.shape[1:])
        if key_padding_mask is not None:
            padding = added(key_padding_mask, q.dtype)[:, None, None]
            mask = padding if mask is None else mask + padding
        x = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(x.transpose(1, 2).flatten(2)), None


def added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to the scores: -inf where a boolean one is true."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf)
