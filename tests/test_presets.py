"""Every preset: it says where its numbers come from, parses, builds on the meta device, and trains when it is small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

import train
from vlp.config import PRESETS, build, merge, parse, read_preset
from vlp.losses.features import Features
from vlp.models import release
from vlp.models.image.resnet import ResNet
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.bag import Bag
from vlp.models.tokenizer import Bpe
from vlp.teachers.frozen import Frozen

ALL = sorted(path.stem for path in PRESETS.glob("*.toml"))
SMALL = ("albef", "demo", "distill", "jest", "lit", "negclip", "noisy", "plain")  # on the bundled data as they are
VIT = {"depth": 2, "embed_dim": 24, "num_heads": 2}
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 3, "width": 64, "image_size": 32, "patch_size": 16},
    "text_cfg": {"layers": 2, "width": 32, "heads": 2, "context_length": 16},
}
TINY_SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"timm_model_name": "test_vit", "image_size": 32},
    "text_cfg": {
        "layers": 1,
        "width": 64,
        "heads": 2,
        "context_length": 16,
        "vocab_size": 49408,
        "hf_tokenizer_name": "",
    },
}


def config(preset: str) -> train.RunConfig:
    return build(train.RunConfig, read_preset(preset))


def overlay(preset: str) -> dict[str, Any]:
    """What makes a preset small: another data set, fewer and narrower layers, smaller pictures, three steps."""
    model = config(preset).model
    tree: dict[str, Any] = {
        "data": {
            "shards": "bundled:emoji/test_attr",
            "captions": {"weights": {"en": 1.0, "zh": 1.0}},
            "workers": {"count": 0},
        },
        "training": {"samples": 48, "batch": 16, "tensorboard": False, "log_every": 1, "init": ""},
    }
    if "warmup_samples" in read_preset(preset).get("training", {}).get("schedule", {}):
        tree["training"]["schedule"] = {"warmup_samples": 16}
    if isinstance(model, OpenClip):
        tree["model"] = {"options": TINY_SIGLIP if "SigLIP" in model.architecture else TINY_CLIP}
    elif preset not in SMALL:
        assert isinstance(model, TwoTowers)
        tree["model"] = {
            "image_size": 32,
            "width": 16,
            "image": {"architecture": "vit_tiny_patch16_224", "pretrained": False, "options": VIT},
            "text": {"hidden": 24, "layers": 1, "heads": 2},
            "bpe": {"vocab": 300},
        }
    if config(preset).training.negatives.startswith("grouped"):
        tree["training"]["negatives"] = "grouped:1"
    return tree


@pytest.mark.parametrize("preset", ALL)
def test_it_says_what_it_is_and_parses(preset: str) -> None:
    text = (PRESETS / f"{preset}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert preset in SMALL or re.search(r"\b\d{4}\.\d{5}\b", text.split("\nout = ")[0])  # a paper of arXiv
    run = parse(train.RunConfig, [preset], "vlp train", "")
    assert str(run.out) == f"runs/{preset}"
    assert run == config(preset)
    assert run.training.steps > 0


@pytest.mark.parametrize("preset", ALL)
def test_it_builds_on_the_meta_device(preset: str) -> None:
    run = config(preset)
    vocab = run.model.bpe.vocab if isinstance(run.model, TwoTowers) else 0
    with torch.device("meta"):
        encoder = run.model.build(vocab, weights=False)
    run.towers.adapt(encoder)
    run.training.optimizer.build(encoder)
    size, context = run.model.transform().size, 16
    side = (
        run.model.bpe.context
        if isinstance(run.model, TwoTowers)
        else getattr(encoder.text_tower, "context_length", context)
    )
    out = encoder(torch.empty(2, 3, size, size, device="meta"), torch.zeros(2, side, dtype=torch.int64, device="meta"))
    assert out.image.shape == out.text.shape
    numbers = sum(p.numel() for p in encoder.parameters())
    assert preset in SMALL or 140e6 < numbers < 300e6


def save_teacher(folder: Path) -> Path:
    """A model folder: small towers, whose tokenizer no run has."""
    small = TwoTowers(width=12, image=ResNet(widths=(8,), depths=(1,)), image_size=32, text=Bag(hidden=8), bpe=Bpe(270))
    tokenizer = small.tokenizer(["a red heart", "a green apple"])
    release.save(folder, config=small, encoder=small.build(tokenizer.vocab), tokenizer=tokenizer, notes={})
    return folder


@pytest.mark.parametrize("preset", ALL)
def test_it_trains_three_steps_when_it_is_small(preset: str, tmp_path: Path) -> None:
    tree = overlay(preset)
    if isinstance(config(preset).teacher, Frozen):
        tree["teacher"] = {"model": str(save_teacher(tmp_path / "teacher"))}
    if isinstance(config(preset).loss, Features):
        tree["loss"] = {"teacher_width": 12}
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(tree))
    out = tmp_path / "run"
    assert train.main([preset, str(tmp_path / "tiny.toml"), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(0 < row["loss"] < 50 and row["gradient_norm"] > 0 for row in rows)
    assert release.load(out / "model").embed_texts(["a red heart"]).isfinite().all()


def test_finetuning_starts_from_a_published_model_and_its_layers_learn_at_their_own_rates(tmp_path: Path) -> None:
    """From a folder as the hub has them."""
    theirs = OpenClip("ViT-B-16", options=TINY_CLIP)
    torch.manual_seed(0)
    encoder = theirs.build(0)
    release.save(tmp_path / "theirs", config=theirs, encoder=encoder, tokenizer=theirs.tokenizer(()), notes={})
    tree = merge(overlay("finetune"), {"training": {"init": str(tmp_path / "theirs")}})
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(tree))
    assert train.main(["finetune", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run")]) == 0
    after = release.load(tmp_path / "run" / "model").encoder.state_dict()
    moved = {name: (after[name] - before).abs().max().item() for name, before in encoder.state_dict().items()}
    assert 0 < max(moved.values()) < 1e-3
    assert moved["image_tower.conv1.weight"] < moved["image_tower.transformer.resblocks.2.mlp.c_fc.weight"]


def test_the_two_bilingual_recipes_differ_in_the_loss_s_negatives_alone() -> None:
    exact, grouped = (read_preset(name) for name in ("m2_bilingual", "m2_bilingual_grouped"))
    assert (exact["training"].pop("negatives"), grouped["training"].pop("negatives")) == ("grid", "grouped:64")
    assert (exact.pop("out"), grouped.pop("out")) == ("runs/m2_bilingual", "runs/m2_bilingual_grouped")
    assert exact == grouped
