from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TinyStream, trainer

from vlp.batch import Batch
from vlp.models.adapt.towers import ImageSide, TextSide, Towers
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image.timm import Timm
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.transformer import Transformer
from vlp.training.settings import Training
from vlp.training.unlocking import Unlocking

BASE = Training(
    samples=6 * 16, batch=16, log_every=1, tensorboard=False, checkpoint_every=0.0, precision="fp32", keep=9
)
TOWERS = Towers(
    image=ImageSide(lock=True, trained_layers=1, unlock_after=32, unlock_every=16),
    text=TextSide(lock=True, unlock_after=48),
)


def model(seed: int = 0) -> DualEncoder:
    torch.manual_seed(seed)
    vit = Timm("vit_tiny_patch16_224", options={"depth": 2, "embed_dim": 24, "num_heads": 2, "patch_size": 4})
    return TwoTowers(width=16, image_size=8, image=vit, text=Transformer(24, 1, 2, dropout=0.1)).build(40)


class Watched(TinyStream):
    """Keeps the weights before each step, which is where the loop asks for a batch."""

    weights: list[dict[str, torch.Tensor]]
    encoder: DualEncoder

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            self.weights.append({k: p.detach().clone() for k, p in self.encoder.named_parameters()})
            yield batch


def run(folder: Path, encoder: DualEncoder, samples: int = BASE.samples) -> list[dict[str, torch.Tensor]]:
    weights: list[dict[str, torch.Tensor]] = []

    def stream(state: Any) -> TinyStream:
        watched = Watched(state, batch=16)
        watched.weights, watched.encoder = weights, encoder
        return watched

    parts = trainer(folder, replace(BASE, samples=samples), model=encoder, unlocking=Unlocking(encoder, TOWERS))
    replace(parts, open_stream=stream).fit()
    return [*weights, {k: p.detach().clone() for k, p in encoder.named_parameters()}]


def moved(weights: list[dict[str, torch.Tensor]], name: str) -> list[bool]:
    return [not torch.equal(a[name], b[name]) for a, b in pairwise(weights)]


def test_layers_move_from_the_moment_they_are_unlocked_and_not_before(tmp_path: Path) -> None:
    weights = run(tmp_path, model())
    assert moved(weights, "image_tower.head.weight") == [True] * 6
    assert moved(weights, "image_tower.blocks.1.mlp.fc1.weight") == [False] * 2 + [True] * 4
    assert moved(weights, "image_tower.blocks.0.mlp.fc1.weight") == [False] * 3 + [True] * 3
    assert moved(weights, "image_tower.pos_embed") == [False] * 4 + [True] * 2
    assert moved(weights, "text_tower.layers.layers.0.linear1.weight") == [False] * 3 + [True] * 3
    assert moved(weights, "text_tower.head.weight") == [False] * 3 + [True] * 3
    assert moved(weights, "logit_scale") == [True] * 6


def test_a_resumed_run_unlocks_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", model())
    run(tmp_path / "parts", model())
    for later in sorted((tmp_path / "parts" / "checkpoints").glob("step-*"))[3:]:
        shutil.rmtree(later)
    again = run(tmp_path / "parts", model(seed=3))
    assert len(again) == 4  # three steps were left
    assert all(torch.equal(a, b) for a, b in zip(whole[-1].values(), again[-1].values(), strict=True))


def test_locked_layers_are_in_evaluation_mode() -> None:
    encoder = model().train()
    unlocking = Unlocking(encoder, TOWERS)
    for samples, training in ((0, False), (47, False), (48, True)):
        with unlocking(samples):
            assert {m.training for m in encoder.text_tower.modules()} == {training}
    assert [len(unlocking.locked(n)) for n in (0, 31, 32, 48, 64)] == [7, 7, 6, 1, 0]


@pytest.mark.parametrize("towers", [Towers(), Towers(image=ImageSide(lock=True))])
def test_a_tower_that_never_unlocks_is_not_planned(towers: Towers) -> None:
    assert Unlocking(model(), towers).plan == []
