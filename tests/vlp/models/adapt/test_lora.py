from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from vlp.errors import UserError
from vlp.models.adapt.attention import OpenAttention
from vlp.models.adapt.lora import Lora, add_adapters, merged
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.transformer import Transformer

TOWERS = {
    "image": (lambda m: m.image_tower, lambda: torch.randn(4, 3, 64, 64)),
    "text": (lambda m: m.text_tower, lambda: torch.randint(1, 300, (4, 9)) * (torch.arange(9) < 6)),
}


def tower(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    of, example = TOWERS[name]
    return of(TwoTowers(text=Transformer(layers=2)).build(300)).eval(), example()


def learn(module: nn.Module, x: Tensor) -> None:
    free = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(free, 1e-2)
    for _ in range(3):
        (module.train()(x) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval()


@pytest.mark.parametrize("name", list(TOWERS))
@torch.no_grad()
def test_adapters_begin_as_nothing_learn_alone_and_merge_into_the_weights(name: str) -> None:
    module, x = tower(name)
    before, weights = module(x), {k: v.clone() for k, v in module.state_dict().items()}
    add_adapters(module, Lora(rank=4, dropout=0.1), "towers.image.lora")
    torch.testing.assert_close(module(x), before, rtol=0, atol=1e-5)
    with torch.enable_grad():
        learn(module, x)
    assert all(("lora_" in k) == p.requires_grad for k, p in module.named_parameters())
    after, plain = module(x), merged(module)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(plain(x), after, rtol=1e-4, atol=1e-5)
    assert set(plain.state_dict()) == set(weights)  # a model folder knows nothing of adapters
    assert any("lora_" in k for k in module.state_dict())  # a copy was merged
    frozen = [k for k in module.state_dict() if "lora_" not in k]
    kept = {k.replace(".base_layer", "").replace("in_proj.", "in_proj_"): module.state_dict()[k] for k in frozen}
    assert all(torch.equal(kept[k], v) for k, v in weights.items())  # to the bit: adapters never touch them


def test_a_target_that_matches_nothing_is_one_sentence_with_what_there_is() -> None:
    module, _ = tower("image")
    before = set(module.state_dict())
    with pytest.raises(UserError) as caught:
        add_adapters(module, Lora(rank=4, targets=("attn.qkv", "c_fc")), "towers.image.lora")
    assert str(caught.value) == (
        'towers.image.lora.targets names "c_fc", which matches nothing in this tower; '
        "there are: attn.proj, attn.qkv, mlp.fc1, mlp.fc2"
    )
    assert set(module.state_dict()) == before


def test_targets_choose_what_is_adapted() -> None:
    module, _ = tower("text")
    add_adapters(module, Lora(rank=2, targets=("self_attn",)), "towers.text.lora")
    adapted = {k.split(".lora_")[0] for k in module.state_dict() if "lora_" in k}
    assert {k.split(".", 3)[3] for k in adapted} == {"self_attn.in_proj", "self_attn.out_proj"}


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"towers.image.lora.rank is 4, which needs peft; install it by pip install"):
        add_adapters(tower("image")[0], Lora(rank=4), "towers.image.lora")


@pytest.mark.parametrize("mask", ["none", "causal", "boolean", "padding", "both"])
def test_an_open_attention_is_the_closed_one(mask: str) -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(16, 4, batch_first=True)
    x, blocked = torch.randn(3, 5, 16), torch.ones(5, 5, dtype=torch.bool).triu(1)
    masks = {
        "none": {},
        "causal": {"attn_mask": torch.zeros(5, 5).masked_fill(blocked, -torch.inf)},
        "boolean": {"attn_mask": blocked},
        "padding": {"key_padding_mask": torch.arange(5)[None] > torch.tensor([[4], [2], [3]])},
        "both": {"attn_mask": blocked, "key_padding_mask": torch.arange(5)[None] > torch.tensor([[4], [2], [3]])},
    }[mask]
    expected = plain(x, x, x, need_weights=False, **masks)[0]
    opened = OpenAttention(plain)
    torch.testing.assert_close(opened(x, x, x, **masks)[0], expected)
    torch.testing.assert_close(opened(x, x + 0, x * 1, **masks)[0], expected)
    again = opened.closed()
    torch.testing.assert_close(again(x, x, x, need_weights=False, **masks)[0], expected)
    assert set(again.state_dict()) == set(plain.state_dict())
