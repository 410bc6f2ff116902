"""Compositions against their papers' formulas, written out over the whole batch in float64."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from made_up import embeddings, errors, gradients, made
from marked import Marked
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, normalize

from vlp.errors import UserError
from vlp.losses._potential import Potential
from vlp.losses.alip import ALIP
from vlp.losses.barlip import BarLIP
from vlp.losses.cacr import CACR
from vlp.losses.ccl_k import CCLK
from vlp.losses.classes import Classes
from vlp.losses.contrastive_gap import ContrastiveGap
from vlp.losses.counting import Counting
from vlp.losses.cwcl import CWCL
from vlp.losses.cyclip import CyCLIP
from vlp.losses.decoupled_uniformity import DecoupledUniformity
from vlp.losses.distill import Distill
from vlp.losses.features import Features
from vlp.losses.gcl import GCL
from vlp.losses.history import History
from vlp.losses.infonce import InfoNCE
from vlp.losses.isogclr import ISogCLR
from vlp.losses.kernel import Kernel
from vlp.losses.m3col import M3CoL
from vlp.losses.macl import MACL
from vlp.losses.multi_positive import MultiPositive
from vlp.losses.poly_view import PolyView
from vlp.losses.spectral import Spectral


def clip(e, scale=None, weights=None):
    logits, labels = (e.scale if scale is None else scale) * e.image @ e.text.T, torch.arange(len(e.image))
    each = sum(cross_entropy(matrix, labels, reduction="none") for matrix in (logits, logits.T)) / 2
    return each.mean() if weights is None else (weights.double() * each).sum() / weights.double().sum()


def cyclip(e):
    c, x, y = e.image @ e.text.T, e.image @ e.image.T, e.text @ e.text.T
    return clip(e) + 0.25 * (c - c.T).square().sum() / len(c) + 0.25 * (x - y).square().sum() / len(c)


def potential(u, v):
    apart = (u[:, None] - v[None]).square().sum(-1)
    different = ~torch.eye(len(u), dtype=torch.bool)
    return (-2 * apart[different]).exp().mean().log()


def contrastive_gap(e):
    align = (e.image - e.text).square().sum(1).mean()
    inside = (potential(e.image, e.image) + potential(e.text, e.text)) / 2
    return clip(e) + align + inside + potential(e.image, e.text)


def macl(e):
    alignment = (e.image * e.text).sum(1).mean().detach()
    logits = e.scale / (1 + 0.5 * alignment) * e.image @ e.text.T
    both = []
    for matrix in (logits, logits.T):
        log_p = matrix.log_softmax(1).diagonal()
        both.append((-log_p / (1 - log_p.exp().detach())).mean())
    return sum(both) / 2


def spectral(e):
    c = e.image @ e.text.T
    others = ~torch.eye(len(c), dtype=torch.bool)
    return -2 * c.diagonal().mean() + c[others].square().mean()


def decoupled_uniformity(e):
    m = (e.image + e.text) / 2
    others = ~torch.eye(len(m), dtype=torch.bool)
    return (-(m[:, None] - m[None]).square().sum(-1)[others]).exp().mean().log()


def counting(e):
    if e.negatives is None:
        return clip(e)
    logits = torch.stack(
        [(e.image[:, None] * e.negatives).sum(-1), (e.image * e.text).sum(-1, keepdim=True).expand(-1, 3)]
    )
    log_right = logits.log_softmax(0)[1]  # a choice between two
    weights = e.negatives_keep * (1 if e.weights is None else e.weights.double()[:, None])
    return clip(e, weights=e.weights) - (weights * log_right).sum() / weights.sum()


def gcl(e):
    text = normalize(e.text.mean(1), dim=-1) if e.text.ndim == 3 else e.text
    return clip(replace(e, text=text), weights=e.weights)


def poly_view(e):
    views = torch.cat([side if side.ndim == 3 else side[:, None] for side in (e.image, e.text)], 1)
    total = 0
    for one in range(views.shape[1]):
        others = normalize(views[:, [k for k in range(views.shape[1]) if k != one]].mean(1), dim=-1)
        total = total + clip(replace(e, image=views[:, one], text=others), weights=e.weights)
    return total / views.shape[1]


def m3col(e):
    b = len(e.image)
    partner = torch.tensor([min(i ^ 1, b - 1) for i in range(b)])
    own = torch.tensor([0.5 + 0.5 * ((i // 2) * (5**0.5 - 1) / 2 % 1) for i in range(b)], dtype=torch.float64)
    weights = torch.ones(b) if e.weights is None else e.weights.double()
    targets = torch.diag(own).index_add(0, torch.arange(b), torch.eye(b, dtype=own.dtype)[partner] * (1 - own)[:, None])
    total = clip(e, weights=e.weights)
    for x, y in ((e.image, e.text), (e.text, e.image)):
        mixture = normalize(own[:, None] * x + (1 - own)[:, None] * x[partner], dim=-1)
        logits = e.scale * mixture @ y.T
        for matrix in (logits, logits.T):
            total = total - (weights * (targets * matrix.log_softmax(1)).sum(1)).sum() / weights.sum() / 4
    return total


def barlip(e):
    x, y = (side @ e.learnt[f"barlip_{name}"] for name, side in (("image", e.image), ("text", e.text)))
    x, y = (v - v.mean(0) for v in (x, y))
    x, y = (v / (v.square().mean(0) + 1e-5).sqrt() for v in (x, y))
    c = x.T @ y / len(x)
    own = torch.eye(len(c), dtype=torch.bool)
    return clip(e) + 0.02 * ((1 - c[own]).square().sum() + 0.005 * c[~own].square().sum())


def features(e):
    value = clip(e)
    for name, own, guide in (("image", e.image, e.guide_image), ("text", e.text, e.guide_text)):
        cosines = normalize(own @ e.learnt[f"features_{name}"]) @ guide.T
        value = value + cross_entropy(cosines / 0.07, torch.arange(len(own))) / 2
    return value


def class_logits(e):
    heads = normalize(e.learnt["classes"], dim=-1)
    own = torch.nn.functional.one_hot(e.ids % 7, 7).bool()
    return own, [16 * side @ heads.T for side in (e.image, e.text)]


def classes(e):
    own, both = class_logits(e)
    each = [
        (1 + (-s).exp().masked_fill(~own, 0).sum(1)).log() + (1 + s.exp().masked_fill(own, 0).sum(1)).log()
        for s in both
    ]
    return clip(e) + 0.1 * sum(each).mean() / 2


def bce(e):
    own, both = class_logits(e)
    return clip(e) + 0.1 * sum(binary_cross_entropy_with_logits(s, own.to(s.dtype)) for s in both) / 2


def each_pair(e):
    """The loss of each pair in InfoNCE."""
    logits, labels = e.scale * e.image @ e.text.T, torch.arange(len(e.image))
    return sum(cross_entropy(m, labels, reduction="none") for m in (logits, logits.T)) / 2


def alip(e):
    cosines = (e.image * e.text).sum(1).detach()
    return ((2 * (cosines - cosines.mean())).exp().clamp_max(1) * each_pair(e)).mean()


def history(e):
    """Of pairs without one."""
    return clip(e)


def isogclr(e):
    """At a first visit: t (log g + 6.5), whose gradient is that of t g / u where u is g."""
    c, others = e.image @ e.text.T, ~torch.eye(len(e.image), dtype=torch.bool)
    g = [((m - m.diagonal()[:, None]) / 0.07)[others].view(len(m), -1).exp().mean(1) for m in (c, c.T)]
    return sum((0.07 * (each.log() + 6.5)).mean() for each in g) / 2


def both_ways(formula, matrix, *others):
    return (formula(matrix, *others) + formula(matrix.T, *(m.T for m in others))) / 2


def kernel(e):
    apart = torch.cdist(e.image, e.text, compute_mode="donot_use_mm_for_euclid_dist")
    similar = (-apart.square() / 0.14).exp() + (-apart / 0.14).exp()
    return both_ways(lambda k: -(k.diagonal() / k.sum(1)).log().mean(), similar)


def cacr(e):
    apart, same = (e.image[:, None] - e.text[None]).square().sum(-1), e.ids[:, None] == e.ids[None]

    def one_way(d, same):
        attract = [(d[i][same[i]] * d[i][same[i]].softmax(0)).sum() for i in range(len(d))]
        repel = [(d[i][~same[i]] * (-2 * d[i][~same[i]]).softmax(0)).sum() for i in range(len(d))]
        return torch.stack(attract).mean() - torch.stack(repel).mean()

    return both_ways(one_way, apart, same)


def cwcl(e):
    logits = e.scale * e.image @ e.text.T
    weight = e.guide_image @ e.guide_image.T / 2 + 0.5
    captions = -(weight * logits.T.log_softmax(1)).sum(1) / weight.sum(1)  # pictures are locked, captions are trained
    return (captions.mean() + cross_entropy(logits, torch.arange(len(logits)))) / 2


def distill(e):
    logits, teacher = e.scale * e.image @ e.text.T, 100 * e.guide_image @ e.guide_text.T
    divergence = partial(kl_div, reduction="batchmean", log_target=True)
    apart = both_ways(lambda s, t: divergence(s.log_softmax(1), t.log_softmax(1)), logits, teacher)
    return (clip(e) + apart) / 2


def ccl_k(e):
    k = e.guide_image @ e.guide_image.T
    weight = (k @ torch.linalg.inv(k + 0.1 * torch.eye(len(k), dtype=k.dtype))).clamp_min(0)

    def one_way(similar):
        positive = (weight * similar).sum(1)
        return -(positive / (positive + similar.sum(1) - similar.diagonal())).log().mean()

    return both_ways(one_way, (e.scale * e.image @ e.text.T).exp())


FORMULAS = (
    (CyCLIP(), cyclip),
    (ContrastiveGap(), contrastive_gap),
    (MACL(), macl),
    (Spectral(), spectral),
    (DecoupledUniformity(), decoupled_uniformity),
    (Counting(), counting),
    (GCL(), gcl),
    (PolyView(), poly_view),
    (M3CoL(), m3col),
    (made(BarLIP), barlip),
    (made(Features), features),
    (made(Classes), classes),
    (made(Classes, kind="bce"), bce),
    (ALIP(), alip),
    (History(), history),
    (Kernel(), kernel),
    (CACR(), cacr),
    (CWCL(), cwcl),
    (Distill(), distill),
    (CCLK(), ccl_k),
    (ISogCLR(), isogclr),
)


@pytest.mark.parametrize("objective, formula", FORMULAS, ids=[formula.__name__ for _, formula in FORMULAS])
def test_value_and_gradients_are_those_of_the_formula(objective, formula):
    e = embeddings(11, weights=False)
    assert max(errors(on_sphere(e, gradients(objective, e)), on_sphere(e, gradients(formula, e)))) < 1e-11


def on_sphere(e, found):
    """The value and its gradients, of unit vectors along the sphere: what is left behind their normalisation."""
    value, image, text, *rest = found
    along = [g - (g * v).sum(-1, keepdim=True) * v.detach() for g, v in ((image, e.image), (text, e.text))]
    return [value, *(g.detach() for g in along), *rest]


def several(b, views, captions):
    """Pairs of `views` pictures and `captions` texts each, with weights and wrong captions."""
    pictures, texts = embeddings(b * views, seed=1).image, embeddings(b * captions, seed=2).text
    sides = (side.detach().view(b, -1, side.shape[-1]).requires_grad_() for side in (pictures, texts))
    image, text = (side if side.shape[1] > 1 else side.detach()[:, 0].requires_grad_() for side in sides)
    return replace(embeddings(b, k=3), image=image, text=text)


@pytest.mark.parametrize("objective, formula, views, captions", [
    (Counting(), counting, 1, 1),
    (GCL(), gcl, 1, 4),
    (PolyView(), poly_view, 3, 1),
    (PolyView(), poly_view, 2, 2),
    (M3CoL(), m3col, 1, 1),
])  # fmt: skip
def test_weights_views_and_captions_count_as_in_the_formula(objective, formula, views, captions):
    for b in (8, 11):
        e = several(b, views, captions)
        if not isinstance(objective, Counting):
            e = replace(e, negatives=None, negatives_keep=None)
        assert max(errors(on_sphere(e, gradients(objective, e)), on_sphere(e, gradients(formula, e)))) < 1e-11


def test_with_one_view_and_one_caption_they_are_what_they_are_made_of():
    e = embeddings(9)
    for objective in (PolyView(), GCL(), Counting(), M3CoL(share=0), Counting(share=0)):
        torch.testing.assert_close(objective(e), InfoNCE()(e))
    alone = replace(embeddings(9, k=2), negatives_keep=torch.zeros(9, 2, dtype=torch.bool))
    torch.testing.assert_close(Counting()(alone), InfoNCE()(e))  # nothing to compare with


def test_with_weights_of_zero_what_is_added_is_nothing():
    e = embeddings(9, k=2)
    for objective in (CyCLIP(across=0, inside=0), ContrastiveGap(align=0, uniform=0, cross=0)):
        torch.testing.assert_close(objective(e), InfoNCE()(e))
    torch.testing.assert_close(CyCLIP(base=MultiPositive(), across=0, inside=0)(e), MultiPositive()(e))


def test_a_composition_may_be_added_to_another():
    e = embeddings(8, weights=False)
    both = CyCLIP(base=ContrastiveGap(base=MACL()))
    expected = CyCLIP()(e) + ContrastiveGap()(e) + MACL()(e) - 2 * InfoNCE()(e)
    torch.testing.assert_close(both(e), expected)
    assert [type(loss) for loss in both.contrasts] == [MACL, *[Potential] * 3]


def test_weights_of_pairs_count_in_the_alignment_too():
    e = embeddings(6)
    apart = (e.image - e.text).square().sum(1)
    expected = InfoNCE()(e) + (e.weights * apart).sum() / e.weights.sum()
    torch.testing.assert_close(ContrastiveGap(uniform=0, cross=0)(e), expected)
    whole = replace(e, weights=None)
    torch.testing.assert_close(ContrastiveGap(uniform=0, cross=0)(whole), InfoNCE()(whole) + apart.mean())


def test_a_teacher_that_says_what_the_student_says_leaves_nothing_to_learn():
    e = embeddings(9)
    e = replace(e, guide_image=e.image.detach(), guide_text=e.text.detach())
    for difficulty in (0.0, 2.0):
        value, *found = gradients(Distill(share=1.0, teacher_scale=20.0, difficulty=difficulty), e)
        assert abs(float(value)) < 1e-12
        assert all(float(gradient.abs().max()) < 1e-11 for gradient in found)


def test_without_a_share_of_the_teacher_and_with_pairs_that_are_not_alike_it_is_infonce():
    e = embeddings(9, k=2)
    torch.testing.assert_close(Distill(share=0.0)(e), InfoNCE()(e))
    apart = replace(e, guide_image=torch.eye(9, dtype=torch.float64))
    torch.testing.assert_close(CCLK(ridge=1e-12)(apart), InfoNCE()(apart))  # w is the identity


def test_without_a_teacher_it_is_one_sentence():
    e = replace(embeddings(4), guide_image=None, guide_text=None)
    for objective in (CWCL(), Distill(), CCLK()):
        with pytest.raises(UserError, match="needs a teacher's embeddings"):
            objective(e)
    with pytest.raises(UserError, match="needs numbers of each pair"):
        Marked()(replace(e, marks=None))
