from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch

from vlp.errors import UserError
from vlp.models import release
from vlp.models.adapt.starting_point import resized_grid, start_from
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image.resnet import ResNet
from vlp.models.image.timm import Timm
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.release import Release
from vlp.models.text.huggingface import HuggingFace
from vlp.models.text.transformer import Transformer
from vlp.models.tokenizer import Bpe, Tokenizer

VIT = Timm("vit_tiny_patch16_224", options={"depth": 2, "embed_dim": 24, "num_heads": 2})
SMALL = TwoTowers(width=16, image_size=64, image=VIT, text=Transformer(24, 1, 2), bpe=Bpe(vocab=300, context=16))
CAPTIONS = ["a red apple", "the green pear and a plum", "seven yellow lemons", "red red wine"]


def made(config: TwoTowers, captions: Sequence[str] = CAPTIONS, seed: int = 0) -> tuple[DualEncoder, Tokenizer]:
    tokenizer = config.tokenizer(captions)
    torch.manual_seed(seed)
    return config.build(tokenizer.vocab), tokenizer


def source(config: TwoTowers = SMALL, **parts: Any) -> Release:
    encoder, tokenizer = made(config, **parts)
    return Release(encoder, tokenizer, config.transform(), "", "theirs")


def changed(**fields: Any) -> TwoTowers:
    return replace(SMALL, **fields)


def test_the_same_model_is_taken_whole() -> None:
    encoder, tokenizer = made(SMALL, seed=1)
    theirs = source()
    report = start_from(encoder, tokenizer, theirs, bias=0.0, transform=SMALL.transform())
    assert {outcome for _, outcome, _ in report.rows} == {"taken"}
    for a, b in zip(encoder.state_dict().values(), theirs.encoder.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("length, tokens", [(50, 197), (197, 50), (10, 26)])
def test_position_embeddings_are_resized_as_open_clip_does(length: int, tokens: int) -> None:
    torch.manual_seed(0)
    positions = torch.randn(length, 8)
    state = {"visual.positional_embedding": positions}
    side = round((tokens - 1) ** 0.5)
    open_clip.model.resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(side, side))))
    ours = resized_grid(positions, tokens)
    assert ours is not None
    torch.testing.assert_close(ours, state["visual.positional_embedding"])


def test_pictures_texts_and_the_shared_space_of_another_size() -> None:
    config = changed(width=20, image_size=96, bpe=Bpe(vocab=300, context=24))
    encoder, tokenizer = made(config, seed=1)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    theirs = source()
    report = start_from(encoder, tokenizer, theirs, bias=0.0, transform=SMALL.transform())
    assert report.of("resized") == [
        ("image_tower.pos_embed", "1 x 17 x 24 to 1 x 37 x 24"),
        ("text_tower.position", "16 x 24 to 24 x 24"),
    ]
    assert {key for key, _ in report.of("new")} == {
        "image_tower.head.weight",
        "image_tower.head.bias",
        "text_tower.head.weight",
    }
    assert ("text_tower.head.weight", "16 x 24 there, 20 x 24 here") in report.of("new")
    after = encoder.state_dict()
    assert torch.equal(after["image_tower.head.weight"], before["image_tower.head.weight"])
    assert torch.equal(
        after["image_tower.blocks.1.mlp.fc1.weight"], theirs.encoder.state_dict()["image_tower.blocks.1.mlp.fc1.weight"]
    )
    table = report.table()
    assert "pos_embed: 1 x 17 x 24 to 1 x 37 x 24" in table
    assert table.startswith("started from theirs:\n  image tower  taken")


def test_of_another_vocabulary_the_shared_tokens_are_taken_by_their_text() -> None:
    other = ["un melon vert", "a red cherry", "the yellow sun", "apple apple apple"]
    encoder, tokenizer = made(SMALL, captions=other, seed=1)
    theirs = source()
    before = encoder.text_tower.token.weight.detach().clone()  # type: ignore[union-attr]
    report = start_from(encoder, tokenizer, theirs, bias=0.0, transform=SMALL.transform())
    ((key, how),) = report.of("taken in part")
    ours, old = tokenizer.tokens(), theirs.tokenizer.tokens()
    both = ours.keys() & old.keys()
    assert key == "text_tower.token.weight"
    assert how == f"{len(both)} of {len(ours)} tokens are in the other vocabulary too"
    assert any(ours[t] != old[t] for t in both)  # numbers say nothing
    rows = encoder.text_tower.token.weight.detach()  # type: ignore[union-attr]
    for token, id in ours.items():
        expected = theirs.encoder.text_tower.token.weight[old[token]] if token in both else before[id]  # type: ignore[union-attr, index]
        assert torch.equal(rows[id], expected.detach())


def test_ids_that_are_shifted_find_their_rows() -> None:
    """transformers' encoders have a row less than ids: 0 is padding."""
    options = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = changed(text=HuggingFace("bert", options=options, context=16))
    theirs = source(config)
    encoder, tokenizer = made(config, captions=["a red cherry", "the apple"], seed=1)
    start_from(encoder, tokenizer, theirs, bias=0.0, transform=SMALL.transform())
    name = "encoder.embeddings.word_embeddings.weight"
    ours, old = encoder.text_tower.state_dict()[name], theirs.encoder.text_tower.state_dict()[name]
    token = "Ġred"
    assert torch.equal(ours[tokenizer.tokens()[token] - 1], old[theirs.tokenizer.tokens()[token] - 1])


def test_scale_and_bias_are_taken_from_a_like_objective_only() -> None:
    theirs = source()
    theirs.encoder.start(scale=50.0)
    for bias, taken in ((0.0, True), (-10.0, False)):
        encoder, tokenizer = made(SMALL, seed=1)
        encoder.start(scale=10.0, bias=bias)
        report = start_from(encoder, tokenizer, theirs, bias=bias, transform=SMALL.transform())
        assert (len(report.of("taken", "logit_")) == 2) is taken
        assert float(encoder.logit_scale.exp()) == pytest.approx(50.0 if taken else 10.0)
        assert float(encoder.logit_bias) == bias


def test_a_tower_of_another_kind_stays_new_and_the_other_is_taken() -> None:
    config = changed(image=ResNet(widths=(16, 32), depths=(1, 1)))
    encoder, tokenizer = made(config, seed=1)
    report = start_from(encoder, tokenizer, source(), bias=0.0, transform=SMALL.transform())
    assert not report.of("taken", "image_tower.")
    assert len(report.of("taken", "text_tower.")) == len(encoder.text_tower.state_dict())
    assert report.of("not used", "image_tower.")


def test_what_cannot_be_used_is_refused_in_a_sentence_and_changes_nothing() -> None:
    vit = Timm("vit_tiny_patch16_224", options={"depth": 2, "embed_dim": 32, "num_heads": 2})
    config = changed(image=vit, text=Transformer(32, 1, 2), width=8)
    encoder, tokenizer = made(config, seed=1)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(UserError) as caught:
        start_from(encoder, tokenizer, source(), bias=0.0, transform=SMALL.transform())
    assert str(caught.value) == (
        "training.init: nothing of theirs fits this model: the same names have other shapes, such as "
        "image_tower.cls_token (1 x 1 x 24 there, 1 x 1 x 32 here); give `model` the architecture of that one, "
        "or leave training.init empty"
    )
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


SHRUNK: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 2, "width": 64, "image_size": 64, "patch_size": 16},
    "text_cfg": {"layers": 1, "width": 64, "heads": 2, "context_length": 16},
}


def test_open_clip_weights_start_a_larger_picture_and_a_longer_text(tmp_path: Path) -> None:
    """As open_clip itself loads the checkpoint into that model."""
    torch.manual_seed(0)
    small = OpenClip("ViT-B-32", options=SHRUNK)
    theirs = Release(small.build(0), small.tokenizer(()), small.transform(), "", "theirs")
    large = OpenClip("ViT-B-32", options={**SHRUNK, "text_cfg.context_length": 20}, image_size=96)
    encoder = large.build(0)
    report = start_from(encoder, large.tokenizer(()), theirs, bias=0.0, transform=SMALL.transform())
    assert [key for key, _ in report.of("resized")] == [
        "image_tower.positional_embedding",
        "text_tower.positional_embedding",
    ]
    state = {
        k.replace("image_tower.", "visual.").replace("text_tower.", "text."): v
        for k, v in theirs.encoder.state_dict().items()
    }
    model = SimpleNamespace(visual=encoder.image_tower, text=encoder.text_tower)
    open_clip.model.resize_pos_embed(state, model)
    open_clip.model.resize_text_pos_embed(state, model)
    ours = encoder.state_dict()
    for key, value in state.items():
        torch.testing.assert_close(ours[key.replace("visual.", "image_tower.").replace("text.", "text_tower.")], value)


def test_options_change_the_architecture_and_its_tokenizer_and_go_into_the_folder(tmp_path: Path) -> None:
    config = OpenClip("ViT-B-32", options=SHRUNK)
    encoder, tokenizer = config.build(0), config.tokenizer(())
    assert tokenizer.context == 16
    assert encoder.encode_image(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 32)
    release.save(tmp_path, config=config, encoder=encoder, tokenizer=tokenizer, notes={})
    again = release.load(tmp_path)
    assert again.tokenizer.context == 16
    torch.testing.assert_close(
        again.embed_texts(["a heart"]),
        Release(encoder.eval(), tokenizer, again.transform, "", "").embed_texts(["a heart"]),
    )
    with pytest.raises(UserError, match=r"start from them by --training.init ViT-B-32:laion2b_s34b_b79k"):
        OpenClip("ViT-B-32", "laion2b_s34b_b79k", options=SHRUNK).build(0)


def test_what_changes_the_meaning_of_weights_is_noted() -> None:
    """The original CLIP's activation in a model without it, and another mean of the pixels."""
    quick = OpenClip("ViT-B-32-quickgelu", options=SHRUNK)
    theirs = Release(quick.build(0), quick.tokenizer(()), quick.transform(), "", "theirs")
    ours = OpenClip("ViT-B-32", options=SHRUNK)
    transform = replace(ours.transform(), mean=(0.5, 0.5, 0.5))
    report = start_from(ours.build(0), ours.tokenizer(()), theirs, bias=0.0, transform=transform)
    assert not report.of("new")
    assert report.table().splitlines()[-3:] == [
        "  beware: the image tower has the activation QuickGELU there, GELU here",
        "  beware: the text tower has the activation QuickGELU there, GELU here",
        "  beware: pictures are prepared with mean (0.48145466, 0.4578275, 0.40821073) there, (0.5, 0.5, 0.5) here",
    ]
    assert start_from(quick.build(0), ours.tokenizer(()), theirs, bias=0.0, transform=quick.transform()).notes == []
