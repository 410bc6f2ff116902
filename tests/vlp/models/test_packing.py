"""Texts that share rows: the features and gradients of the padded ones, in fewer tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor

from vlp.models.kinds.open_clip import OpenClip
from vlp.models.packing import LEAST_ROW, PackedTextTransformer, plan

CONTEXT, END = 48, 999


def tower(**options: object) -> TextTransformer:
    settings = {"vocab_size": END + 1, "width": 32, "heads": 4, "layers": 2, "output_dim": 24, **options}
    return TextTransformer(context_length=CONTEXT, **settings).double()


def texts(lengths: list[int]) -> Tensor:
    """Token ids [B, L] that end in END, padded with 0."""
    rows = torch.zeros(len(lengths), CONTEXT, dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(1, END, (length,))
        row[length - 1] = END
    return rows


@pytest.mark.parametrize(
    "options", [{}, {"proj_bias": True}, {"proj_type": "none"}, {"ls_init_value": 0.1, "qk_norm": True}]
)
@pytest.mark.parametrize("lengths", [[5, 2, 9, 3, 7, 4, 4, 6, 2, 8], [CONTEXT, 2, 31], [1], [LEAST_ROW] * 3])
def test_features_and_gradients_are_those_of_padded_texts(options: dict[str, object], lengths: list[int]) -> None:
    torch.manual_seed(0)
    padded = tower(**options).train()
    assert PackedTextTransformer.can_pack(padded)
    packed = copy.deepcopy(padded)
    packed.__class__ = PackedTextTransformer
    text = texts(lengths)
    one, other = padded(text), packed(text)
    assert torch.allclose(one, other, rtol=0, atol=1e-12)
    towards = torch.randn_like(one)
    one.backward(towards)
    other.backward(towards)
    for (name, a), b in zip(padded.named_parameters(), packed.parameters(), strict=True):
        assert a.grad is not None, name
        assert b.grad is not None, name
        assert torch.allclose(a.grad, b.grad, rtol=1e-10, atol=1e-11), name


@pytest.mark.parametrize("lengths", [[5, 2, 9, 3], [CONTEXT, 2], [1]])
def test_texts_without_their_padding_have_the_same_features(lengths: list[int]) -> None:
    torch.manual_seed(0)
    padded = tower().eval()
    short = copy.deepcopy(padded)
    short.__class__ = PackedTextTransformer
    text = texts(lengths)
    trimmed = short.trimmed(text)
    assert trimmed.shape[1] == max(lengths)
    assert torch.allclose(padded(text), short(trimmed), rtol=0, atol=1e-12)


def test_every_token_has_a_place_and_rows_are_filled() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 20, (200,))
    where = plan(lengths, CONTEXT)
    assert int((where.caption >= 0).sum()) == int(lengths.sum())
    assert where.caption.unique().numel() == int((where.caption < 0).sum()) + 200
    assert int(lengths.sum()) / where.source.numel() > 0.85
    flat = where.source.flatten()
    for i, length in enumerate(lengths.tolist()):
        places = torch.arange(int(where.end[i]) - length + 1, int(where.end[i]) + 1)
        assert flat[places].tolist() == list(range(i * CONTEXT, i * CONTEXT + length))
        assert where.position.flatten()[places].tolist() == list(range(length))


@pytest.mark.parametrize(
    "options", [{"no_causal_mask": True}, {"pool_type": "last"}, {"embed_cls": True}, {"output_tokens": True}]
)
def test_towers_that_look_at_padding_are_left_alone(options: dict[str, object]) -> None:
    assert not PackedTextTransformer.can_pack(tower(**options))


def test_evaluation_takes_open_clip_s_own_way() -> None:
    model = OpenClip("ViT-B-32", options={"text_cfg.layers": 1, "vision_cfg.layers": 1}).build(49408)
    assert isinstance(model.text_tower, PackedTextTransformer)
    text = torch.zeros(2, 77, dtype=torch.int64)
    text[:, :3] = torch.tensor([49406, 320, 49407])
    model.eval()
    assert torch.equal(model.text_tower(text), TextTransformer.forward(model.text_tower, text))
    model.train()
    assert torch.allclose(model.text_tower(text), TextTransformer.forward(model.text_tower, text), atol=1e-5)
