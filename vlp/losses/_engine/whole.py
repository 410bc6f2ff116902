"""The whole matrix of logits in one direction, which definitions are written on."""

from __future__ import annotations

import torch
from torch import Tensor

from vlp.batch import Embeddings
from vlp.losses._engine.tile import Matrix, TileForm, Way, alike


def whole_matrix(loss: TileForm, e: Embeddings, way: Way) -> Matrix:
    """What `loss` is told of one process's pairs in one direction, B x B memory, differentiable."""
    own, other, keys = (e.image, e.text, e.bank_text) if way == "rows" else (e.text, e.image, e.bank_image)
    precision = torch.promote_types(own.dtype, other.dtype)  # a mixture of bfloat16 features is float32
    own, other = own.to(precision), other.to(precision)
    logits = e.scale * own @ other.T
    local = own.new_zeros(len(own), 0)
    earlier = local if keys is None else e.scale * own @ keys.to(precision).T
    if e.negatives is not None and way == "rows":
        local = e.scale * (own[:, None] * e.negatives).sum(-1)
    if loss.uses_bias:
        logits, local, earlier = logits + e.bias, local + e.bias, earlier + e.bias
    if e.negatives_keep is not None and way == "rows":
        local = local.masked_fill(~e.negatives_keep, -torch.inf)
    same = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if loss.uses_ids and e.ids is not None:
        same = alike(e.ids, e.ids)
    marks = e.marks if loss.uses_marks else None
    guide, of_bank = taught(loss, e, way)
    return Matrix(logits, torch.cat([local, earlier], 1), same, guide, marks, way, earlier.shape[1], of_bank)


def taught(loss: TileForm, e: Embeddings, way: Way) -> tuple[Tensor | None, Tensor | None]:
    """([B, B], [B, Q]) what a teacher says of the pairs and of the bank, where the loss uses it."""
    if not loss.uses_guide or e.guide_image is None or e.guide_text is None:
        return None, None
    rows = way == "rows"
    own, other = (e.guide_image, e.guide_text) if rows else (e.guide_text, e.guide_image)
    keys = e.bank_guide_text if rows else e.bank_guide_image
    return own @ other.T, own[:, :0] if keys is None else own @ keys.to(own.dtype).T
