from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from tiny_run import Tiny, pairs
from torch import nn

import vlp.training.optimizers as package
from vlp.config import build, component
from vlp.losses.infonce import InfoNCE
from vlp.training.average import averaged
from vlp.training.gradient import whole_batch
from vlp.training.optimizers import Optimizer, set_progress
from vlp.training.optimizers.lion import Lion
from vlp.training.optimizers.muon import Muon, OrthogonalMomentum, matrices, orthogonal

NAMES = sorted(m.name for m in pkgutil.iter_modules(package.__path__))


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_owns_each_weight_once_spares_norms_and_lowers_the_loss(name: str) -> None:
    optimizer = build(Optimizer, {"name": name})
    model, batch = Tiny(dropout=0.0), pairs(0, 32)
    built = optimizer.build(model)
    groups = [g for o in built for g in o.param_groups]
    owned = [id(p) for g in groups for p in g["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    for group in groups:
        assert all((p.ndim < 2) == (group["weight_decay"] == 0) for p in group["params"])
    losses = []
    for _ in range(15):
        losses.append(float(whole_batch(model, InfoNCE().reference, batch, seed=0)))
        for o in built:
            o.step()
            o.zero_grad()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_locked_weights_are_left_alone(name: str) -> None:
    model = Tiny()
    model.text.requires_grad_(False)
    owned = {id(p) for o in build(Optimizer, {"name": name}).build(model) for g in o.param_groups for p in g["params"]}
    assert id(model.text.weight) not in owned


def test_names_are_files() -> None:
    assert NAMES == ["adamw", "lion", "muon"]
    for name in NAMES:
        assert component(Optimizer, name).__module__ == importlib.import_module(f"{package.__name__}.{name}").__name__


def test_progress_scales_every_peak() -> None:
    built = Muon(lr=0.5, adamw_lr=0.25).build(Tiny())
    set_progress(built, 0.5)
    assert sorted({g["lr"] for o in built for g in o.param_groups}) == [0.125, 0.25]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 20), (1, 20, 5)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_the_directions(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    out = orthogonal(x, 5)
    values = torch.linalg.svdvals(out)
    assert 0.4 < values.min() <= values.max() < 1.3
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    core = u.mT @ out @ vh.mT  # diagonal if U and V are kept
    torch.testing.assert_close(
        core - torch.diag_embed(core.diagonal(dim1=1, dim2=2)), torch.zeros_like(core), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("size", ["match_rms_adamw", "original"])
def test_muon_agrees_with_torch(size: str) -> None:
    """torch's iterates in bfloat16, hence the tolerance; kernels and fused projections it does not take."""
    torch.manual_seed(0)
    start, gradients = torch.randn(6, 10), [torch.randn(6, 10) for _ in range(4)]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = OrthogonalMomentum(
        [{"params": [ours], "parts": 1, "lr": 0.02, "weight_decay": 0.1}],
        {"momentum": 0.95, "iterations": 5, "size": size},
    )
    peer = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn=size)
    for g in gradients:
        ours.grad, theirs.grad = g.clone(), g.clone()
        mine.step()
        peer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_muon_takes_the_inner_matrices_only_and_splits_a_fused_projection() -> None:
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(10, 8),
            "attention": nn.MultiheadAttention(8, 2),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "pointwise": nn.Conv2d(8, 16, 1),
            "norm": nn.LayerNorm(8),
        }
    )
    assert sorted(n for n, _ in matrices(model)) == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "pointwise.weight",
    ]
    weight = model["attention"].in_proj_weight
    before = weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    muon = Muon(weight_decay=0.0, lr=1.0).build(model)[0]
    muon.step()
    for part in (weight - before).detach().view(3, 8, 8) / (0.2 * 8**0.5):
        assert 0.4 < torch.linalg.svdvals(part).min() <= torch.linalg.svdvals(part).max() < 1.3


def test_lion_is_its_formula() -> None:
    p = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    (lion,) = Lion(lr=0.1, weight_decay=0.5, beta1=0.9, beta2=0.5).build(nn.ParameterList([p]))
    p.grad = torch.tensor([[3.0, -1.0]])
    lion.step()
    torch.testing.assert_close(p.data, torch.tensor([[0.95 - 0.1, -1.9 + 0.1]]))
    p.grad = torch.tensor([[-0.1, 10.0]])  # momentum (1.5, -0.5): the first keeps its direction
    lion.step()
    torch.testing.assert_close(p.data, torch.tensor([[0.85 * 0.95 - 0.1, -1.8 * 0.95 - 0.1]]))


def test_the_average_is_the_weighted_mean_without_a_trace_of_the_start() -> None:
    model = nn.BatchNorm1d(1)
    average, values, decay = averaged(model, 0.8), [3.0, -1.0, 4.0, 2.0], 0.8
    for step, value in enumerate(values):
        model.weight.data.fill_(value)
        model.running_mean.fill_(2 * value)
        model.num_batches_tracked.fill_(step)
        average.update_parameters(model)
    share = [decay ** (len(values) - 1 - i) for i in range(len(values))]
    expected = sum(s * v for s, v in zip(share, values, strict=True)) / sum(share)
    assert average.module.weight.item() == pytest.approx(expected)
    assert average.module.running_mean.item() == pytest.approx(2 * expected)
    assert average.module.num_batches_tracked.item() == 3
