"""Every loss found in the folder: its tile form against its definition, in value and gradient, with every option."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import components, embeddings, errors, gradients, in_double, made
from marked import Marked

from vlp.errors import UserError
from vlp.losses import Loss, Objective
from vlp.losses._engine import tile_engine as tiles
from vlp.losses.albef import ALBEF
from vlp.losses.cacr import CACR
from vlp.losses.ccl_k import CCLK
from vlp.losses.cwcl import CWCL
from vlp.losses.dcl import DCL
from vlp.losses.distill import Distill
from vlp.losses.hn_nce import HNNCE
from vlp.losses.infonce import InfoNCE
from vlp.losses.kernel import Kernel
from vlp.losses.m3col import M3CoL
from vlp.losses.macl import MACL
from vlp.losses.mochi import MoCHi
from vlp.losses.moco import MoCo
from vlp.losses.multi_positive import MultiPositive
from vlp.losses.siglip import SigLIP

VARIANTS = {
    MultiPositive: ({"duplicates": "mask"},),
    HNNCE: ({"alpha": 0.7, "beta": 0.5}, {"beta": 0.0}),
    CWCL: ({"locked": "text"}, {"anchors": "locked"}),
    Distill: ({"difficulty": 2.0, "teacher_scale": 5.0},),
    CACR: ({"repel": 20.0},),
    Kernel: ({"square": 2.0},),
    CCLK: ({"condition": "text", "ridge": 2.0},),
    MoCo: ({"keys": "own"},),
    ALBEF: ({"alpha": 0.9, "queue": 0},),
}


WORST = {MACL: 0.1}  # float32 knows 1 - P of pairs that are certain to a few digits only, and divides by it

LOSSES = [made(component, **options) for component in components() for options in ({}, *VARIANTS.get(component, ()))]
LOSSES.append(Marked())  # what the engine can and no objective asks for
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)


def bank_of(loss, pairs):
    """So many earlier pairs for what is a loss of one matrix; those pairs have no marks."""
    return pairs if isinstance(loss, Loss) and not isinstance(loss, Marked) else 0


def smoothed(objective: Objective, share: float) -> Objective:
    """The objective, or the loss that it adds to, with label smoothing."""
    if isinstance(objective, Loss):
        return replace(objective, label_smoothing=share)
    if hasattr(objective, "base"):
        return replace(objective, base=smoothed(objective.base, share))
    return objective


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of 5, so that a dozen pairs already cross several, ragged ones among them."""
    monkeypatch.setitem(tiles.EDGE, "cpu", 5)


def test_the_folder_holds_the_five_objectives():
    assert {InfoNCE, SigLIP, DCL, HNNCE, MultiPositive} <= set(components())


@each_loss
@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [False, True])
def test_tiles_equal_the_definition(loss, k, smoothing, weights):
    loss = smoothed(loss, smoothing)
    e = embeddings(13, k=k, weights=weights, bank=bank_of(loss, 6))
    assert max(errors(gradients(loss, e), gradients(loss.reference, e))) < 1e-12


@each_loss
def test_float32_is_no_worse_than_the_plain_float32_matrix(loss):
    e = embeddings(64, 32, dtype=torch.float32, scale=50.0, bank=bank_of(loss, 9))
    oracle = gradients(loss.reference, in_double(e))
    fast, plain = errors(gradients(loss, e), oracle), errors(gradients(loss.reference, e), oracle)
    assert all(f <= 2 * p + 3e-7 for f, p in zip(fast, plain, strict=True)), (fast, plain)


@each_loss
def test_bfloat16_features_are_no_worse_than_the_plain_bfloat16_matrix(loss):
    e = embeddings(12, dtype=torch.bfloat16, scale=10.0, weights=False, bank=bank_of(loss, 3))
    oracle = gradients(loss.reference, in_double(e))
    fast, plain = errors(gradients(loss, e), oracle), errors(gradients(loss.reference, e), oracle)
    assert fast[0] < 1e-5  # the value is computed in float32 from the rounded features
    assert max(fast) < 4e-3  # the gradient is rounded once, to bfloat16
    assert sum(fast) <= sum(plain) + 1e-6


@each_loss
@pytest.mark.parametrize("scale", [0.01, 100.0, 500.0])
def test_extreme_scales_and_duplicated_rows_stay_finite_and_right(loss, scale):
    e = embeddings(13, scale=scale, dtype=torch.float32, bank=bank_of(loss, 3))
    with torch.no_grad():
        e.image[3:7] = e.image[3]
        e.text[9:] = -e.image[:4]
    actual, oracle = gradients(loss, e), gradients(loss.reference, in_double(e))
    assert all(t.isfinite().all() for t in actual)
    assert max(errors(actual[:3], oracle[:3])) < WORST.get(type(loss), 2e-5)


@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(2, 17),
    d=st.integers(1, 9),
    k=st.integers(0, 2),
    scale=st.sampled_from([1e-30, 1.0, 30.0, 100.0]),
    which=st.sampled_from(LOSSES),
    seed=st.integers(0, 999),
    shared=st.booleans(),
)
def test_any_shape(*, b, d, k, scale, which, seed, shared):
    e = embeddings(b, d, k=k, scale=scale, seed=seed, bank=bank_of(which, b // 2))
    if shared:
        with torch.no_grad():
            e.text[:] = e.text[0]
    actual, oracle = gradients(which, e), gradients(which.reference, e)
    assert all(t.isfinite().all() for t in actual)
    for a, o in zip(actual, oracle, strict=True):
        torch.testing.assert_close(a, o, rtol=1e-9, atol=1e-11)


ORDERED = (M3CoL,)  # that the place of a pair in the batch matters to


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not isinstance(loss, ORDERED)], ids=str)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 999))
def test_permuting_pairs_permutes_gradients(loss, seed):
    e = embeddings(11, k=1, seed=seed, bank=bank_of(loss, 2))
    loss = replace(loss, mixed=0, own_mixed=0) if isinstance(loss, MoCHi) else loss  # a pair's place draws its mixes
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    pick = lambda t: t.detach()[order].requires_grad_(t.requires_grad)  # noqa: E731
    names = ("image", "text", "ids", "weights", "negatives", "guide_image", "guide_text", "marks")
    shuffled = replace(e, **{n: pick(getattr(e, n)) for n in names})
    shuffled = replace(shuffled, negatives_keep=e.negatives_keep[order])
    before, after = gradients(loss, e), gradients(loss, shuffled)
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1], before[1][order])
    torch.testing.assert_close(after[2], before[2][order])


def test_denormal_weights_and_features_stay_finite():
    e = embeddings(8, dtype=torch.float32)
    tiny = replace(e, image=(e.image.detach() * 1e-39).requires_grad_())
    assert all(t.isfinite().all() for t in gradients(InfoNCE(), tiny))
    assert math.isclose(float(InfoNCE()(tiny).detach()), math.log(8), rel_tol=1e-6)


def test_infonce_is_the_cross_entropy_of_clip():
    e = embeddings(9, weights=False)
    logits, labels = e.scale * e.image @ e.text.T, torch.arange(9)
    cross_entropy = torch.nn.functional.cross_entropy
    for smoothing in (0.0, 0.1):
        loss = InfoNCE(label_smoothing=smoothing)
        both = [cross_entropy(m, labels, label_smoothing=smoothing) for m in (logits, logits.T)]
        torch.testing.assert_close(loss(e), sum(both) / 2)


def test_hn_nce_without_hardness_is_infonce():
    e = embeddings(9, k=2)
    torch.testing.assert_close(HNNCE(alpha=1.0, beta=0.0)(e), InfoNCE()(e))


@pytest.mark.parametrize("duplicates", ["spread", "mask"])
def test_pairs_that_share_one_of_two_ids_are_alike(duplicates):
    loss, e = MultiPositive(duplicates=duplicates), embeddings(7)
    one = torch.tensor([0, 0, 1, 2, 3, 4, 5])  # pairs 0 and 1
    two = torch.tensor([9, 8, 7, 6, 6, 5, 5])  # pairs 3 and 4, 5 and 6
    both = torch.tensor([0, 0, 1, 3, 3, 5, 5])
    for call in (loss, loss.reference):
        actual, expected = (call(replace(e, ids=ids)) for ids in (torch.stack([one, two], 1), both))
        torch.testing.assert_close(actual, expected)


def test_multi_positive_of_distinct_ids_is_infonce():
    e = replace(embeddings(9), ids=torch.arange(9))
    for duplicates in ("spread", "mask"):
        torch.testing.assert_close(MultiPositive(duplicates=duplicates)(e), InfoNCE()(e))


def test_masked_duplicates_leave_each_others_loss():
    e = replace(embeddings(4, weights=False), ids=torch.tensor([0, 0, 1, 2]))
    logits = e.scale * e.image @ e.text.T
    logits = logits.masked_fill(torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]).bool(), -torch.inf)
    both = [torch.nn.functional.cross_entropy(m, torch.arange(4)) for m in (logits, logits.T)]
    torch.testing.assert_close(MultiPositive(duplicates="mask")(e), sum(both) / 2)


def test_a_locked_tower_gets_no_gradient_and_costs_no_matmul():
    e = embeddings(13, k=2)
    oracle = gradients(InfoNCE().reference, e)
    locked = replace(e, image=e.image.detach())
    loss = InfoNCE()(locked)
    text, scale = torch.autograd.grad(loss, [locked.text, locked.scale])
    torch.testing.assert_close(text, oracle[2])
    torch.testing.assert_close(scale, oracle[3])
    both = replace(e, image=e.image.detach(), text=e.text.detach(), negatives=e.negatives.detach())
    torch.testing.assert_close(torch.autograd.grad(InfoNCE()(both), [both.scale])[0], oracle[3])


def test_without_gradient_the_value_is_the_same():
    for loss in LOSSES:
        e = embeddings(13, k=2, bank=bank_of(loss, 4))
        with torch.no_grad():
            assert not loss(e).requires_grad
            torch.testing.assert_close(loss(e), loss.reference(e))


def test_upstream_gradients_scale_the_gradient_and_are_taken_once():
    e = embeddings(6)
    loss = InfoNCE()(e)
    (3 * loss).backward(retain_graph=True)
    torch.testing.assert_close(e.image.grad / 3, gradients(InfoNCE(), e)[1])
    with pytest.raises(RuntimeError, match="taken already"):
        loss.backward()


def test_bad_input_is_told_in_one_sentence():
    with pytest.raises(UserError, match="needs an id for each pair"):
        MultiPositive()(replace(embeddings(4), ids=None))
    with pytest.raises(UserError, match="has no negatives"):
        DCL()(embeddings(1))
    with pytest.raises(UserError, match="label_smoothing"):
        InfoNCE(label_smoothing=1.0)
