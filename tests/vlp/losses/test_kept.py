"""Objectives that keep numbers: their formulas with a past, and that the swapped captions of a batch are found."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import embeddings, errors, gradients
from torch.nn.functional import cross_entropy, normalize

from vlp.batch import Embeddings
from vlp.errors import UserError
from vlp.losses._engine.among import Alone
from vlp.losses.alip import ALIP
from vlp.losses.cyclip import CyCLIP
from vlp.losses.dcl import DCL
from vlp.losses.history import History
from vlp.losses.infonce import InfoNCE
from vlp.losses.isogclr import KEPT, ISogCLR
from vlp.losses.macl import MACL
from vlp.losses.multi_positive import MultiPositive
from vlp.losses.siglip import SigLIP


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def each_pair(e):
    logits, labels = e.scale * e.image @ e.text.T, torch.arange(len(e.image))
    return sum(cross_entropy(m, labels, reduction="none") for m in (logits, logits.T)) / 2


def test_alip_weights_by_its_running_mean():
    e, among = embeddings(9), Alone({"alip_cosine": double(0.2), "alip_mass": double(0.5)})
    cosines = (e.image * e.text).sum(1).detach()
    total, mass = 0.9 * 0.2 + 0.1 * cosines.mean(), 0.9 * 0.5 + 0.1
    weights = (3 * (cosines - total / mass)).exp().clamp_max(1)

    def formula(e):
        return (e.weights.double() * weights * each_pair(e)).sum() / e.weights.double().sum()

    loss = ALIP(sharpness=3, momentum=0.9)
    assert max(errors(gradients(lambda e: loss(e, among), e), gradients(formula, e))) < 1e-12
    torch.testing.assert_close(among.kept, {"alip_cosine": total, "alip_mass": double(mass)})


def test_history_weights_by_the_density_of_the_mean_loss_of_each_pair():
    e = embeddings(12)
    mean, times = torch.rand(12).double() * 4, torch.arange(12).double() % 4
    mean[[1, 2]] = double([20.0, 19.0])  # far above
    mean[5] = -30  # far below
    among, known = Alone({"history_loss": mean, "history_times": times}), times > 0
    mu, sigma = mean[known].mean(), mean[known].std(correction=0)
    density = torch.exp(torch.distributions.Normal(mu, sigma).log_prob(mean))
    bad = known & ((mean > mu + 0.8 * sigma) | (mean < mu - 2 * sigma))
    assert bad.nonzero()[:, 0].tolist() == [1, 2, 5]
    weights = torch.where(bad, density, 1.0)

    def formula(e):
        return (e.weights.double() * weights * each_pair(e)).sum() / e.weights.double().sum()

    loss = History(faulty=0.8, noisy=2)
    assert max(errors(gradients(lambda e: loss(e, among), e), gradients(formula, e))) < 1e-12
    torch.testing.assert_close(among.kept["history_loss"], (mean * times + each_pair(e).detach()) / (times + 1))
    torch.testing.assert_close(among.kept["history_times"], times + 1)


def of_one_direction(c, temperature, before, gamma, rho):
    """(the surrogate of each pair, its value, the new log u, the slope of its temperature), as the paper has them."""
    others = ~torch.eye(len(c), dtype=torch.bool)
    apart = (c - c.diagonal()[:, None])[others].view(len(c), -1)
    weights = (apart / temperature[:, None]).exp()
    g = weights.mean(1)
    u = torch.where(before.isinf(), g, (1 - gamma) * before.exp() + gamma * g).detach()
    moment = (weights * apart).mean(1)
    slope = u.log() + rho - moment / (u * temperature)
    return temperature * g / u, temperature * (u.log() + rho), u.log(), slope.detach()


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_isogclr_averages_denominators_and_moves_temperatures(gamma):
    e, generator = embeddings(8, weights=False), torch.Generator().manual_seed(1)
    past = {name: torch.rand(8, generator=generator, dtype=torch.float64) / 4 + 0.05 for name in KEPT}
    for name in KEPT[1::2]:
        past[name] = torch.where(torch.arange(8) < 3, -torch.inf, past[name] * 5)
    among, loss = Alone(past), ISogCLR(gamma=gamma, rho=0.5, rate=0.02, least=0.06)

    def both(e):
        c = e.image @ e.text.T
        sides = (c, past[KEPT[0]], past[KEPT[1]]), (c.T, past[KEPT[2]], past[KEPT[3]])
        return [of_one_direction(*side, gamma, 0.5) for side in sides]

    found = gradients(lambda e: loss(e, among), e)
    assert max(errors(found[1:], gradients(lambda e: sum(s[0].mean() for s in both(e)) / 2, e)[1:])) < 1e-12
    torch.testing.assert_close(found[0], sum(s[1].mean() for s in both(e)).detach() / 2)
    for k, (_, _, log_u, slope) in enumerate(both(e)):
        torch.testing.assert_close(among.kept[KEPT[2 * k + 1]], log_u)
        moved = (past[KEPT[2 * k]] - 0.02 * slope).clamp(0.06, 1.0)
        torch.testing.assert_close(among.kept[KEPT[2 * k]], moved)
        assert (moved > 0.06).any()


def test_isogclr_of_batches_alone_has_the_gradient_of_dcl_times_the_temperature():
    e = replace(embeddings(9, k=2), scale=double(1 / 0.2).requires_grad_())
    found, expected = gradients(ISogCLR(gamma=1.0, temperature=0.2), e), gradients(DCL(), e)
    assert max(errors(found[1:3], [0.2 * g for g in expected[1:3]])) < 1e-12


def test_what_an_objective_adds_to_keeps_its_numbers_too():
    both = CyCLIP(base=ALIP(base=History()))
    assert set(both.per_sample) == {"history_loss", "history_times"}
    assert set(both.per_run) == {"alip_cosine", "alip_mass"}
    among, e = Alone(), embeddings(5)
    both(e, among)
    assert set(among.kept) == {*both.per_sample, *both.per_run}


@pytest.mark.parametrize("base", [SigLIP(), MACL(), CyCLIP()], ids=str)
def test_history_refuses_a_base_without_a_loss_of_each_pair(base):
    with pytest.raises(UserError, match=r"loss.base.*infonce, dcl"):
        History(base=base)
    History(base=MultiPositive())


def auc(weights, swapped):
    """How often a swapped pair weighs less than another, half where they weigh alike."""
    bad, good = weights[swapped][:, None], weights[~swapped][None]
    return float(((bad < good) + 0.5 * (bad == good)).double().mean())


@pytest.fixture(scope="module")
def swapped():
    """(pictures and captions of one latent vector each, which of the captions were swapped: 30 %)."""
    generator = torch.Generator().manual_seed(3)
    latent, swapped = torch.randn(240, 8, generator=generator), torch.arange(240) < 72
    noisy = latent[:, None] + 0.3 * torch.randn(240, 2, 8, generator=generator)
    image, text = noisy.unbind(1)
    text = torch.cat([text[:72].roll(1, 0), text[72:]])
    return image, text, swapped


def learn(objective, swapped, epochs=20):
    """Train two linear towers on the swapped set; the numbers kept, and the embeddings at the end."""
    image, text, _ = swapped
    torch.manual_seed(0)
    towers = [torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)]
    optimizer = torch.optim.Adam([p for t in towers for p in t.parameters()], lr=2e-2)
    table = {name: torch.full((len(image),), first) for name, first in objective.per_sample.items()}
    run = {name: torch.tensor(first) for name, first in objective.per_run.items()}
    order = np.random.default_rng(0)

    def embedded(rows):
        x, y = (normalize(tower(v[rows]), dim=-1) for tower, v in zip(towers, (image, text), strict=True))
        return Embeddings(x, y, torch.tensor(12.0), torch.tensor(0.0))

    for _ in range(epochs):
        for rows in torch.from_numpy(order.permutation(len(image))).split(80):
            among = Alone({name: column[rows] for name, column in table.items()} | run)
            optimizer.zero_grad()
            objective(embedded(rows), among).backward()
            optimizer.step()
            for name, column in table.items():
                column[rows] = among.kept[name]
            run = {name: among.kept[name] for name in run}
    return table, run, embedded(torch.arange(len(image)))


def test_history_finds_swapped_captions(swapped):
    objective = History()
    table, _, _ = learn(objective, swapped)
    weights = objective.weights(Alone(), table["history_loss"], table["history_times"] > 0)
    assert auc(weights, swapped[2]) > 0.9


def test_alip_finds_swapped_captions(swapped):
    _, run, e = learn(ALIP(), swapped)
    cosines = (e.image * e.text).sum(1).detach()
    weights = (2 * (cosines - run["alip_cosine"] / run["alip_mass"])).exp().clamp_max(1)
    assert auc(weights, swapped[2]) > 0.9


def test_numbers_begin_with_their_first_values_where_nothing_is_kept():
    e, loss = embeddings(6), History(base=InfoNCE(label_smoothing=0.1))
    nothing = Alone({"history_loss": torch.zeros(6), "history_times": torch.zeros(6)})
    torch.testing.assert_close(loss(e), loss(e, nothing))
    torch.testing.assert_close(loss(e), InfoNCE(label_smoothing=0.1)(replace(e)))
