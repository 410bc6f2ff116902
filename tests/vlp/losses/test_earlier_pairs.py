"""Objectives that compare a batch with earlier pairs, against their papers' formulas in float64."""

from dataclasses import replace

import pytest
import torch
from made_up import embeddings, errors, gradients
from torch.nn.functional import cross_entropy, normalize

from vlp.errors import UserError
from vlp.losses._engine.among import Alone
from vlp.losses.albef import ALBEF
from vlp.losses.infonce import InfoNCE
from vlp.losses.mochi import MoCHi
from vlp.losses.moco import MoCo


def moco(e):
    """Of both directions: the right one of (own key, queue) is the first."""
    both = []
    for query, key, queue in ((e.image, e.guide_text, e.bank_text), (e.text, e.guide_image, e.bank_image)):
        logits = e.scale * torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1)
        both.append(cross_entropy(logits, torch.zeros(len(query), dtype=torch.long)))
    return sum(both) / 2


def albef(e, alpha=0.4):
    """Targets are alpha of the momentum model's softmax over its keys of batch and queue, and the rest the own key."""
    both = []
    sides = ((e.image, e.guide_image, e.guide_text, e.bank_text), (e.text, e.guide_text, e.guide_image, e.bank_image))
    for query, momentum, key, queue in sides:
        keys = torch.cat([key, queue])
        target = alpha * (e.scale.detach() * momentum @ keys.T).softmax(1)
        target[:, : len(key)] += (1 - alpha) * torch.eye(len(key), dtype=torch.float64)
        both.append(-(target * (e.scale * query @ keys.T).log_softmax(1)).sum(1).mean())
    return sum(both) / 2


def extended(e):
    """InfoNCE whose denominators have the queue too."""
    both = []
    for query, key, queue in ((e.image, e.text, e.bank_text), (e.text, e.image, e.bank_image)):
        both.append(cross_entropy(e.scale * query @ torch.cat([key, queue]).T, torch.arange(len(query))))
    return sum(both) / 2


FORMULAS = ((MoCo(), moco), (ALBEF(), albef), (InfoNCE(), extended), (MoCHi(mixed=0, own_mixed=0), moco))


@pytest.mark.parametrize("objective, formula", FORMULAS, ids=[type(objective).__name__ for objective, _ in FORMULAS])
def test_value_and_gradients_are_those_of_the_formula(objective, formula):
    e = embeddings(11, weights=False, bank=9)
    assert max(errors(gradients(objective, e), gradients(formula, e))) < 1e-12


def test_own_keys_learn_too():
    e = embeddings(7, weights=False, bank=5)
    own = replace(e, guide_image=e.image, guide_text=e.text)
    assert max(errors(gradients(MoCo(keys="own"), e), gradients(moco, own))) < 1e-12


def test_without_a_share_of_the_teacher_and_a_queue_albef_is_infonce():
    e = embeddings(9)
    same = replace(e, guide_image=e.image.detach(), guide_text=e.text.detach())
    torch.testing.assert_close(ALBEF(alpha=0.0, queue=0)(same), InfoNCE()(e))


def test_smoothing_is_that_of_the_cross_entropy():
    e = embeddings(9, weights=False, bank=6)
    both = []
    for query, key, queue in ((e.image, e.guide_text, e.bank_text), (e.text, e.guide_image, e.bank_image)):
        logits = e.scale * torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1)
        both.append(cross_entropy(logits, torch.zeros(9, dtype=torch.long), label_smoothing=0.1))
    torch.testing.assert_close(MoCo(label_smoothing=0.1)(e), sum(both) / 2)


def test_an_empty_bank_is_no_negative_and_gives_no_gradient():
    e = embeddings(5)
    empty = replace(e, bank_image=e.image[:0], bank_text=e.text[:0])
    value, *found = gradients(MoCo(), empty)
    assert float(value) == pytest.approx(0, abs=1e-12)
    assert all(float(g.abs().max()) < 1e-12 for g in found)
    torch.testing.assert_close(InfoNCE()(empty), InfoNCE()(e))


def mixes_of(query, queue, objective, draws):
    """One query after the other: mixes of its hardest keys, by equations 5 and 6."""
    first, second, share = draws
    found = []
    for q, ones, twos, shares in zip(query.detach(), first, second, share, strict=True):
        hardest = queue[(queue @ q).argsort(descending=True)[: objective.hardest]]
        n = [hardest[int(place * len(hardest))] for place in ones]
        m = [hardest[int(place * len(hardest))] for place in twos]
        mixed = [a * x + (1 - a) * y for a, x, y in zip(shares, n, m, strict=True)][: objective.mixed]
        own = [b * q + (1 - b) * y for b, y in zip(shares, m, strict=True)][objective.mixed :]
        found.append(torch.stack([normalize(h, dim=0) for h in (*mixed, *own)]))
    return torch.stack(found)


def test_mochi_has_mixes_of_the_hardest_among_the_negatives():
    objective, e = MoCHi(mixed=4, own_mixed=3, hardest=5), embeddings(6, weights=False, bank=20)

    def formula(e):
        both = []
        sides = ((e.image, e.guide_text, e.bank_text), (e.text, e.guide_image, e.bank_image))
        for which, (query, key, queue) in enumerate(sides):
            draws = [part.double() for part in objective.draws(6, 0, which)]
            local = (query[:, None] * mixes_of(query, queue, objective, draws)).sum(-1)
            logits = e.scale * torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T, local], 1)
            both.append(cross_entropy(logits, torch.zeros(6, dtype=torch.long)))
        return sum(both) / 2

    assert max(errors(gradients(objective, e), gradients(formula, e))) < 1e-12


def test_mixes_are_drawn_by_seed_step_and_direction_and_their_shares_are_in_bounds():
    objective = MoCHi(mixed=40, own_mixed=30)
    first, second, share = objective.draws(5, 3, 0)
    assert all(map(torch.equal, objective.draws(5, 3, 0), (first, second, share)))
    for other in (objective.draws(5, 4, 0), objective.draws(5, 3, 1), replace(objective, seed=1).draws(5, 3, 0)):
        assert not torch.equal(other[0], first)
    assert float(share.min()) >= 0
    assert float(share[:, :40].max()) > 0.9
    assert float(share[:, 40:].max()) < 0.5
    e = embeddings(5, bank=9)
    assert float(objective(e, Alone(step=1)).detach()) != float(objective(e, Alone(step=2)).detach())


def test_keys_of_no_teacher_or_one_of_another_width_are_refused():
    e = embeddings(4, bank=3)
    for objective in (MoCo(), ALBEF(), MoCHi()):
        with pytest.raises(UserError, match="name a momentum teacher"):
            objective(replace(e, guide_image=None, guide_text=None))
        with pytest.raises(UserError, match="of width 8 with keys of a teacher of width 3"):
            objective(replace(e, guide_image=e.guide_image[:, :3], guide_text=e.guide_text[:, :3]))
