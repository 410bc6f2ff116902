"""Compositions against their papers' formulas, written out over the whole batch in float64."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from made_up import embeddings, errors, gradients
from marked import Marked
from torch.nn.functional import cross_entropy, kl_div

from vlp.errors import UserError
from vlp.losses._potential import Potential
from vlp.losses.cacr import CACR
from vlp.losses.ccl_k import CCLK
from vlp.losses.contrastive_gap import ContrastiveGap
from vlp.losses.cwcl import CWCL
from vlp.losses.cyclip import CyCLIP
from vlp.losses.decoupled_uniformity import DecoupledUniformity
from vlp.losses.distill import Distill
from vlp.losses.infonce import InfoNCE
from vlp.losses.kernel import Kernel
from vlp.losses.macl import MACL
from vlp.losses.multi_positive import MultiPositive
from vlp.losses.spectral import Spectral


def clip(e, scale=None):
    logits, labels = (e.scale if scale is None else scale) * e.image @ e.text.T, torch.arange(len(e.image))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


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
    (Kernel(), kernel),
    (CACR(), cacr),
    (CWCL(), cwcl),
    (Distill(), distill),
    (CCLK(), ccl_k),
)


@pytest.mark.parametrize("objective, formula", FORMULAS, ids=[formula.__name__ for _, formula in FORMULAS])
def test_value_and_gradients_are_those_of_the_formula(objective, formula):
    e = embeddings(11, weights=False)
    assert max(errors(on_sphere(e, gradients(objective, e)), on_sphere(e, gradients(formula, e)))) < 1e-11


def on_sphere(e, found):
    """The value and its gradients, of unit vectors along the sphere: what is left behind their normalisation."""
    value, image, text, *rest = found
    along = [g - (g * v).sum(1, keepdim=True) * v.detach() for g, v in ((image, e.image), (text, e.text))]
    return [value, *(g.detach() for g in along), *rest]


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
