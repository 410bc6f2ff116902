"""Recomputed and compiled towers give what they gave before; compiled ones are compiled once for each bucket."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import engine_cases
import pytest
import torch
from tiny_run import pairs, trainer
from torch import Tensor, nn

from vlp.batch import Batch
from vlp.losses.infonce import InfoNCE
from vlp.models.kinds.open_clip import OpenClip
from vlp.training.forwards import Forwards, autocast, compile_towers, recompute, recomputed, write_attention_out
from vlp.training.gradient import whole_batch
from vlp.training.memory import saved_bytes
from vlp.training.settings import Training
from vlp.training.texts import in_bucket
from vlp.training.towers import blocks, towers, units


def after_a_step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Gradients and buffers of a step."""
    whole_batch(model, InfoNCE().reference, batch, seed=3)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients | dict(model.named_buffers())


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_recomputed_blocks_give_the_same_gradient_and_move_running_statistics_once(norm: str) -> None:
    plain = engine_cases.model(norm=norm, dropout=0.3).double()
    again, forwards = copy.deepcopy(plain), Forwards()
    recompute(forwards, again)
    expected, actual = (after_a_step(m, pairs(0, 12)) for m in (plain, again))
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    forwards.put_back()
    assert not any("forward" in vars(module) for module in again.modules())


def test_recomputed_blocks_keep_less() -> None:
    model, forwards = engine_cases.model(), Forwards()
    whole = saved_bytes(model, pairs(0, 16))
    recompute(forwards, model)
    assert 0 < saved_bytes(model, pairs(0, 16)) < 0.6 * whole
    forwards.put_back()
    assert saved_bytes(model, pairs(0, 16)) == whole


def open_clip_model() -> nn.Module:
    """Towers of open_clip, of which the text tower packs its texts."""
    options = {"embed_dim": 16, "vision_cfg.image_size": 8, "vision_cfg.patch_size": 4, "vision_cfg.layers": 2}
    options |= {"vision_cfg.width": 32, "vision_cfg.head_width": 16, "text_cfg.width": 32, "text_cfg.heads": 2}
    options |= {"text_cfg.layers": 2, "text_cfg.context_length": 24, "text_cfg.vocab_size": 300}
    return OpenClip(architecture="ViT-B-32", options=options).build(300, weights=False)


@pytest.mark.parametrize("make", [engine_cases.model, open_clip_model])
def test_attention_that_is_written_out_gives_the_same_gradient(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    plain = make().double()
    written, forwards = copy.deepcopy(plain), Forwards()
    write_attention_out(forwards, written)
    assert sum("forward" in vars(module) for module in written.modules()) >= 2
    expected, actual = (after_a_step(m, pairs(0, 6)) for m in (plain, written))
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-10, atol=1e-12)


def test_who_asks_for_the_weights_of_an_attention_gets_them() -> None:
    attention, forwards, x = nn.MultiheadAttention(8, 2), Forwards(), torch.randn(3, 1, 8)
    expected = attention(x, x, x)
    write_attention_out(forwards, attention)
    for got, want in zip(attention(x, x, x), expected, strict=True):
        assert torch.equal(got, want)
    assert attention(x, x, x, need_weights=False)[1] is None


def test_blocks_are_the_repeated_layers_of_every_kind_of_tower() -> None:
    import open_clip
    import timm

    with torch.device("meta"):
        clip = open_clip.CLIP(
            **{k: v for k, v in open_clip.get_model_config("ViT-S-32-alt").items() if k != "custom_text"}
        )
        resnet = open_clip.CLIP(**open_clip.get_model_config("RN50"))
        vit = timm.create_model("vit_tiny_patch16_224")
        convnext = timm.create_model("convnext_atto")
    assert len(blocks(clip.visual)) == 12
    assert {type(block).__name__ for block in blocks(clip.transformer)} == {"ResidualAttentionBlock"}
    assert len(blocks(resnet.visual)) == 3 + 4 + 6 + 3
    assert len(blocks(vit)) == 12
    assert {type(block).__name__ for block in blocks(convnext)} == {"ConvNeXtBlock"}
    ours = engine_cases.model()
    assert towers(ours) == [ours.image_tower, ours.text_tower]
    kinds = [[type(block).__name__ for block in blocks(tower)] for tower in towers(ours)]
    assert kinds == [["Block"] * 3, ["TransformerEncoderLayer"] * 2]
    assert units(ours) == [*blocks(ours.image_tower), ours.image_tower, *blocks(ours.text_tower), ours.text_tower]
    ours.image_tower.requires_grad_(False)
    assert recomputed(ours) == blocks(ours.text_tower)  # nothing is kept for a locked tower


def lengths(run: Callable[[Batch], object], *, repeat: int) -> int:
    """Graphs that torch compiles while `run` is given batches of every length, 1 to 8."""
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for _ in range(repeat):
        for length in range(1, 9):
            text = torch.ones(4, length, dtype=torch.int64)
            run(Batch(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), text, ("",) * 4))
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"] - before)


@pytest.mark.parametrize("by_block", [False, True], ids=["towers", "blocks"])
def test_a_text_tower_is_compiled_once_for_each_bucket(by_block: bool) -> None:
    torch._dynamo.reset()
    model, forwards = engine_cases.model(), Forwards()
    compile_towers(forwards, model, by_block=by_block, backend="eager")
    step = lambda batch: model.encode_text(in_bucket(batch, 4, 8).text).sum().backward()  # noqa: E731
    first = lengths(step, repeat=1)
    assert first == 2  # lengths 4 and 8
    assert lengths(step, repeat=2) == 0
    forwards.put_back()


@pytest.mark.parametrize(
    ("length", "longest", "expected"), [(3, 3, 4), (8, 3, 4), (8, 5, 8), (9, 9, 10), (4, 4, 4), (3, 0, 4)]
)
def test_buckets_cut_and_pad_with_nothing_lost(length: int, longest: int, expected: int) -> None:
    text = torch.zeros(2, 2, length, dtype=torch.int64)
    text[1, 0, :longest] = 7
    given = in_bucket(Batch(torch.zeros(2, 3, 8, 8), text, ("a", "b")), 4, 10).text
    assert given.shape == (2, 2, expected)
    assert (given != 0).sum() == (text != 0).sum()


def test_a_run_that_compiles_has_texts_in_buckets(tmp_path: Path) -> None:
    batch = pairs(0, 4)
    for compiled, context, expected in ((True, 8, 4), (True, 0, 3), (False, 8, 3)):
        run = trainer(tmp_path, Training(compile=compiled, bucket=4), context=context)
        assert run.fitting(batch).text.shape[-1] == expected


def test_embeddings_do_not_depend_on_the_bucket() -> None:
    model = engine_cases.model().eval()
    batch = pairs(0, 6)
    with torch.no_grad():
        short, long = (model.encode_text(in_bucket(batch, multiple, 32).text) for multiple in (1, 16))
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-6)


def test_forwards_are_paused_for_an_evaluation() -> None:
    model, forwards = engine_cases.model(), Forwards()
    autocast(forwards, model, torch.bfloat16, torch.device("cpu"))
    batch = pairs(0, 4)
    half = model(batch.image, batch.text).image
    with forwards.paused():
        assert "forward" not in vars(model)
        assert not torch.equal(model(batch.image, batch.text).image, half)
    assert torch.equal(model(batch.image, batch.text).image, half)
