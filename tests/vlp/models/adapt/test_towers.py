from __future__ import annotations

import open_clip
import pytest
import torch

from vlp.errors import UserError
from vlp.models.adapt.lora import Lora
from vlp.models.adapt.patch_dropout import drop_patches
from vlp.models.adapt.towers import ImageSide, TextSide, Towers
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image.resnet import ResNet
from vlp.models.kinds.two_towers import TwoTowers


def model() -> DualEncoder:
    torch.manual_seed(0)
    return TwoTowers().build(300)


def free(module: torch.nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def test_a_lock_leaves_the_topmost_layers_free_and_the_rest_in_evaluation_mode() -> None:
    encoder = model()
    Towers(image=ImageSide(lock=True, trained_layers=2), text=TextSide(lock=True)).adapt(encoder)
    encoder.train()
    assert not free(encoder.text_tower)
    assert {name.split(".")[0] for name in free(encoder.image_tower)} == {"blocks", "norm", "head"}
    assert {name.split(".")[1] for name in free(encoder.image_tower) if name.startswith("blocks")} == {"11"}
    assert encoder.image_tower.blocks[11].training  # type: ignore[union-attr]
    assert not encoder.image_tower.blocks[10].training  # type: ignore[union-attr]
    assert encoder.logit_scale.requires_grad


def test_what_is_trained_is_said_in_a_sentence() -> None:
    encoder = model()
    towers = Towers(
        image=ImageSide(lora=Lora(rank=2), trained_layers=1, patch_dropout=0.5),
        text=TextSide(lock=True, unlock_after=1000),
    )
    towers.adapt(encoder)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in encoder.parameters())
    assert towers.sentence(encoder) == (
        "the image tower has adapters of rank 2 and is locked, its top 1 layer apart; the text tower is locked for "
        f"1,000 pairs; 50% of the patches are left out in training: {trained:,} of {whole:,} weights are trained"
    )
    assert Towers().sentence(encoder) == ""


def test_adapters_and_a_trained_head_go_together() -> None:
    encoder = model()
    Towers(image=ImageSide(lora=Lora(rank=2), trained_layers=1)).adapt(encoder)
    assert all("lora_" in name or name.startswith(("norm.", "head.")) for name in free(encoder.image_tower))
    assert {"head.weight", "norm.bias"} <= free(encoder.image_tower)
    assert free(encoder.text_tower) == set(dict(encoder.text_tower.named_parameters()))


@pytest.mark.parametrize(
    "towers, sentence",
    [
        (
            lambda: Towers(image=ImageSide(unlock_after=5)),
            "towers.image.unlock_after is set, but the tower is not locked",
        ),
        (lambda: Towers(text=TextSide(lock=True, unlock_every=5)), "without towers.text.unlock_after"),
        (lambda: Towers(text=TextSide(lock=True, lora=Lora(rank=1))), "towers.text has both lock and lora.rank"),
    ],
)
def test_settings_that_exclude_each_other_are_one_sentence(towers: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        towers()  # type: ignore[operator]


def test_patch_dropout_is_open_clips_own() -> None:
    """The same numbers as a tower that open_clip itself built with it, and nothing changes in evaluation."""
    torch.manual_seed(0)
    theirs = open_clip.create_model("ViT-S-32-alt", force_patch_dropout=0.5).visual
    ours = open_clip.create_model("ViT-S-32-alt").visual
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 224, 224)
    whole = ours.eval()(x)
    drop_patches(ours, 0.5)
    assert torch.equal(ours(x), whole)
    results = []
    for tower in (ours.train(), theirs.train()):
        torch.manual_seed(1)
        results.append(tower(x))
    assert torch.equal(*results)
    assert not torch.equal(results[0], whole)


def test_timm_towers_drop_patches_too_and_a_resnet_refuses() -> None:
    encoder = model()
    Towers(image=ImageSide(patch_dropout=0.75)).adapt(encoder)
    lengths = []
    encoder.image_tower.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))  # type: ignore[union-attr]
    for mode in (True, False):
        encoder.train(mode).encode_image(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert lengths == [5, 17]  # a quarter of 16 patches and the class token; all of them in evaluation
    with pytest.raises(UserError, match="the image tower is no transformer over patches"):
        drop_patches(ResNet().build(16, 64), 0.5)
