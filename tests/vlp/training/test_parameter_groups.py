from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from vlp.config import build
from vlp.models.adapt.lora import Lora
from vlp.models.adapt.towers import ImageSide, TextSide, Towers
from vlp.models.dual_encoder import DualEncoder
from vlp.models.kinds.open_clip import OpenClip
from vlp.models.kinds.two_towers import TwoTowers
from vlp.training.optimizers import Optimizer
from vlp.training.parameter_groups import TowerRate, rates


def two_towers() -> DualEncoder:
    torch.manual_seed(0)
    return TwoTowers().build(300)


def spared(model: nn.Module, optimizer: Optimizer) -> set[str]:
    known = {id(p): name for name, p in model.named_parameters()}
    groups = [g for o in optimizer.build(model) for g in o.param_groups]
    return {known[id(p)] for g in groups if not g["weight_decay"] for p in g["params"]}


@pytest.mark.parametrize("architecture", ["ViT-B-32", "ViT-B-16-SigLIP", "RN50"])
def test_what_decays_is_what_open_clips_program_lets_decay(architecture: str) -> None:
    with torch.device("meta"):
        model = OpenClip(architecture).build(0, weights=False)
    theirs = {
        n
        for n, p in model.named_parameters()
        if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n  # open_clip_train/main.py
    }
    adamw = build(Optimizer, {"name": "adamw", "weight_decay": 0.2})
    assert spared(model, adamw) == theirs
    kept = build(Optimizer, {"name": "adamw", "weight_decay": 0.2, "spare_embeddings": True})
    more = spared(model, kept) - theirs
    assert more  # position embeddings, which are matrices
    assert all(n.endswith(("positional_embedding", "pos_embed", "latent")) for n in more)


def test_layer_wise_decay_is_timms() -> None:
    tower = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=16)
    theirs: dict[int, float] = {}
    for group in param_groups_layer_decay(tower, layer_decay=0.8):
        theirs |= {id(p): group["lr_scale"] for p in group["params"]}
    model = DualEncoder(tower, nn.Linear(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
    ours = rates(model, TowerRate(layer_decay=0.8), TowerRate())
    # timm counts the last norm to the last block; it is the head's here, as in open_clip's unlocked groups
    for name, p in tower.named_parameters():
        if not name.startswith("norm."):
            assert ours[id(p)][1] == pytest.approx(theirs[id(p)]), name


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_each_tower_and_depth_learns_at_its_own_rate(name: str) -> None:
    model = two_towers()
    tree = {"name": name, "lr": 1.0, "image": {"lr": 0.1, "layer_decay": 0.5}, "text": {"lr": 2.0}}
    if name == "muon":
        tree["adamw_lr"] = 1.0
    peaks = {id(p): g["peak"] for o in build(Optimizer, tree).build(model) for g in o.param_groups for p in g["params"]}
    assert len(peaks) == len(list(model.parameters()))
    vit = model.image_tower
    assert peaks[id(vit.head.weight)] == pytest.approx(0.1)  # type: ignore[union-attr]
    assert peaks[id(vit.blocks[11].mlp.fc1.weight)] == pytest.approx(0.1 * 0.5)  # type: ignore[union-attr]
    assert peaks[id(vit.blocks[10].mlp.fc1.bias)] == pytest.approx(0.1 * 0.25)  # type: ignore[union-attr]
    assert peaks[id(vit.cls_token)] == pytest.approx(0.1 * 0.5**13)  # type: ignore[union-attr]
    assert {peaks[id(p)] for p in model.text_tower.parameters()} == {2.0}
    assert peaks[id(model.logit_scale)] == 1.0


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_adapters_and_free_layers_are_all_that_an_optimizer_owns(name: str) -> None:
    model = two_towers()
    Towers(image=ImageSide(lora=Lora(rank=2), trained_layers=1), text=TextSide(lora=Lora(rank=2))).adapt(model)
    tree = {"name": name, "image": {"layer_decay": 0.5}}
    built = build(Optimizer, tree).build(model)
    owned = [id(p) for o in built for g in o.param_groups for p in g["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    for optimizer in built:
        optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_without_rates_the_groups_are_those_of_before(name: str) -> None:
    """Order included: the states of an optimizer are kept by number."""
    model = two_towers()
    for optimizer in build(Optimizer, {"name": name}).build(model):
        if type(optimizer).__name__ == "OrthogonalMomentum":
            continue
        owned = {id(p) for g in optimizer.param_groups for p in g["params"]}
        mine = [p for p in model.parameters() if id(p) in owned]
        before = [[p for p in mine if p.ndim >= 2], [p for p in mine if p.ndim < 2]]
        assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == [[id(p) for p in b] for b in before]
