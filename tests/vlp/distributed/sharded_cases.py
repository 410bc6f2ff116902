"""What the ranks of a test world compute: each objective by each schedule, against one float64 process."""

import time
from dataclasses import fields, replace

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize

from tests.vlp.losses.marked import Marked
from vlp.batch import Embeddings
from vlp.distributed.sharded import sharded
from vlp.distributed.strategies.strategy import grids
from vlp.losses import Loss
from vlp.losses._engine import tile_engine as tiles
from vlp.losses._engine.among import ByDefinition
from vlp.losses.albef import ALBEF
from vlp.losses.alip import ALIP
from vlp.losses.barlip import BarLIP
from vlp.losses.cacr import CACR
from vlp.losses.ccl_k import CCLK
from vlp.losses.classes import Classes
from vlp.losses.contrastive_gap import ContrastiveGap
from vlp.losses.counting import Counting
from vlp.losses.cwcl import CWCL
from vlp.losses.cyclip import CyCLIP
from vlp.losses.dcl import DCL
from vlp.losses.decoupled_uniformity import DecoupledUniformity
from vlp.losses.distill import Distill
from vlp.losses.features import Features
from vlp.losses.gcl import GCL
from vlp.losses.history import History
from vlp.losses.hn_nce import HNNCE
from vlp.losses.infonce import InfoNCE
from vlp.losses.isogclr import ISogCLR
from vlp.losses.kernel import Kernel
from vlp.losses.m3col import M3CoL
from vlp.losses.macl import MACL
from vlp.losses.mochi import MoCHi
from vlp.losses.moco import MoCo
from vlp.losses.multi_positive import MultiPositive
from vlp.losses.poly_view import PolyView
from vlp.losses.siglip import SigLIP
from vlp.losses.spectral import Spectral

LOSSES = (InfoNCE(), SigLIP(), DCL(), HNNCE(), MultiPositive(), MultiPositive(duplicates="mask"))
SMOOTHED = tuple(replace(loss, label_smoothing=0.1) for loss in LOSSES)
PAIRS, WIDTH = 5, 6  # of a rank, and of the embeddings
COMPOSED = (
    MACL(),
    CyCLIP(base=MultiPositive()),
    ContrastiveGap(),
    Spectral(),
    DecoupledUniformity(),
    Kernel(label_smoothing=0.1),
    CACR(),
    CWCL(),
    Distill(difficulty=1.0),
    CCLK(),
    Marked(),
    Counting(base=MultiPositive()),
    GCL(),
    PolyView(label_smoothing=0.1),
    M3CoL(),
    BarLIP(dims=4),
    Features(),
    Classes(classes=4),
    ALIP(base=MultiPositive()),
    History(base=MultiPositive(label_smoothing=0.1)),
    MoCo(label_smoothing=0.1),
    MoCHi(mixed=3, own_mixed=2, hardest=4),
    ALBEF(label_smoothing=0.1),
    ISogCLR(label_smoothing=0.1),
)
VARIANTS = (MoCo(keys="own"), ALBEF(queue=0, alpha=0.0))
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2}


def whole_batch(b, *, extras, several=False, seed=0) -> Embeddings:
    """b pairs in float64, the same on every rank; `extras`: weights, ids and two negative captions each.

    `several`: two views and three captions each.
    """
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape):
        return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)

    ids = torch.randint(0, b, (b,), generator=generator)
    image, text = unit(b, WIDTH), unit(b, WIDTH)
    scale, bias = torch.tensor(20.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)
    e = Embeddings(image, text, scale, bias, ids=ids, learnt=own_weights(torch.float64))
    beside = {"guide_image": unit(b, WIDTH), "guide_text": unit(b, WIDTH), "marks": unit(b, 2)}
    sides = ("image", "text", "guide_image", "guide_text")
    beside |= {f"bank_{side}": unit(2 * b, WIDTH) for side in sides}
    e = replace(e, **beside)
    if not extras:
        return e
    ids = torch.stack([ids, torch.randint(0, 2 * b, (b,), generator=generator)], 1)  # two kinds, either is enough
    weights, keep = torch.rand(b, generator=generator) + 0.1, torch.rand(b, 2, generator=generator) > 0.3
    if several:
        e = replace(e, image=unit(b, 2, WIDTH), text=unit(b, 3, WIDTH))
    return replace(e, ids=ids, weights=weights, negatives=unit(b, 2, WIDTH), negatives_keep=keep)


def own_weights(dtype):
    """The weights that the objectives learn, the same on every rank."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = {name: value for loss in COMPOSED for name, value in loss.learnt(WIDTH).items()}
    return {name: value.to(dtype) for name, value in first.items()}


def past(loss, b):
    """What a loss may have kept of b samples and of the run."""
    generator = torch.Generator().manual_seed(2)
    samples = {name: 2 * torch.rand(b, generator=generator, dtype=torch.float64) for name in loss.per_sample}
    return samples | {name: torch.tensor(0.3, dtype=torch.float64) for name in loss.per_run}


def cast(e: Embeddings, dtype) -> Embeddings:
    """Fresh leaves of another dtype; scale and bias stay float32 at least."""
    number = torch.promote_types(dtype, torch.float32)
    new = {}
    for field in fields(e):
        value = getattr(e, field.name)
        if field.name == "learnt":
            value = {name: t.detach().to(number).requires_grad_() for name, t in value.items()}
        elif value is not None and value.is_floating_point() and field.name != "weights":
            value = value.detach().to(number if value.dim() == 0 else dtype)
            value = value if field.name.startswith("guide") else value.requires_grad_()
        new[field.name] = value
    return Embeddings(**new)


def share(e: Embeddings, rank, size) -> Embeddings:
    """The rank's rows of every field."""
    return Embeddings(**{f.name: cut(getattr(e, f.name), rank, size) for f in fields(e)})


def cut(value, rank, size):
    """The rank's rows of a tensor; a number or what is not of pairs as it is."""
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return value
    return value[len(value) // size * rank : len(value) // size * (rank + 1)]


def takes_bank(objective):
    """Whether it is a loss of one matrix; the pairs of a bank have no marks."""
    return isinstance(objective, Loss) and not isinstance(objective, Marked)


def banked(own: Embeddings, objective, whole: Embeddings) -> Embeddings:
    """A rank's pairs with its part of the bank: that of its grid row and column, or all of it."""
    if not takes_bank(objective.objective):
        return replace(own, bank_image=None, bank_text=None)
    names = {"bank_image": objective.rows, "bank_text": objective.columns}
    names |= {"bank_guide_image": objective.rows, "bank_guide_text": objective.columns}
    if not objective.bank_in_parts:
        return replace(own, **{name: getattr(whole, name).to(own.image.dtype) for name in names})
    return replace(own, **{name: peers.gather(getattr(own, name).detach())() for name, peers in names.items()})


def leaves(e: Embeddings):
    """What has a gradient, of pairs first."""
    return [t for t in (e.image, e.text, e.negatives, e.scale, e.bias, *e.learnt.values()) if t is not None]


def strategies(size):
    return ["one_sided", "ring", f"grouped:{size}", *(f"grid:{r}x{c}" for r, c in grids(size))]


def schedules(loss, size):
    """Those that an objective is tried by: on many ranks one of each kind, for what only composes losses."""
    every = strategies(size)
    if size <= 4 or loss in (*LOSSES, *SMOOTHED):
        return every
    return [*every[:2], every[4]] if size <= 6 else [every[1], every[4]]


def compare(loss, negatives, world, *, dtype=torch.float64, extras=True, several=False, ahead=False):
    """The largest relative error of value and gradients against the definition on one process."""
    pairs = PAIRS + isinstance(loss, M3CoL)  # which wants them even
    whole = whole_batch(pairs * world.size, extras=extras, several=several)
    oracle_leaves = cast(cast(whole, dtype), torch.float64)  # the rounded features, exactly
    if not takes_bank(loss):
        oracle_leaves = replace(oracle_leaves, bank_image=None, bank_text=None)
    kept, rank = past(loss, pairs * world.size), world.rank
    alone = ByDefinition(kept)
    value = loss(oracle_leaves, alone)
    oracle = torch.autograd.grad(value, leaves(oracle_leaves), allow_unused=True, materialize_grads=True)
    objective = sharded(loss, world, negatives)
    objective.begin({name: cut(t, rank, world.size) for name, t in kept.items()})
    own = banked(cast(share(whole, world.rank, world.size), dtype), objective, whole)
    if ahead:
        objective.send_ahead(own.text)
    found_value = objective(own)
    actual = torch.autograd.grad(found_value, leaves(own), allow_unused=True, materialize_grads=True)
    errors = [abs(float(found_value.detach()) - float(value)) / max(1.0, abs(float(value)))]
    for name in kept:
        errors.append(float((objective.kept[name].double() - cut(alone.kept[name], rank, world.size)).abs().max()))
    of_pairs = len(leaves(own)) - len(own.learnt)
    for i, (expected, got) in enumerate(zip(oracle, actual, strict=True)):
        got = got.double() / world.size
        if expected.dim() == 0 or i >= of_pairs:
            dist.all_reduce(got) if world.size > 1 else None
        else:
            expected = expected.unflatten(0, (world.size, -1))[world.rank]
        errors.append(float((got - expected).norm() / (expected.norm() + 1e-3)))
    return max(errors)


def every_schedule(world):
    """'' or what is wrong: every objective by every schedule, with all options, in float64, float32 and bfloat16."""
    tiles.EDGE["cpu"] = 4
    wrong = []
    composed = COMPOSED if world.size <= 8 else COMPOSED[:3]  # nothing in them depends on how many more there are

    def check(loss, negatives, dtype, **options):
        error = compare(loss, negatives, world, dtype=dtype, **options)
        if not error < TOLERANCE[dtype]:
            wrong.append(f"{loss} {negatives} {dtype} {options}: relative error {error:.1e}")

    for loss in (*SMOOTHED, *composed, *VARIANTS):
        for negatives in schedules(loss, world.size):
            check(loss, negatives, torch.float64)
    for negatives in strategies(world.size):
        for loss in LOSSES[:2]:
            check(loss, negatives, torch.float64, extras=False, ahead=True)
            check(loss, negatives, torch.float32)
    for negatives in strategies(world.size)[1 : 4 if world.size <= 4 else 2]:  # the ring, one group, a grid
        for loss in composed:
            check(loss, negatives, torch.float64, extras=False, ahead=True)
            check(loss, negatives, torch.float32)
        for loss in composed:
            if loss.takes_all:
                check(loss, negatives, torch.float64, several=True)
    for negatives in strategies(world.size)[:2]:
        check(LOSSES[0], negatives, torch.bfloat16, extras=False)
    return "\n".join(wrong)


class Towers(nn.Module):
    """Two linear towers with a scale and a bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(7, WIDTH).double(), nn.Linear(3, WIDTH).double()
        self.logit_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.logit_bias = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, image, text):
        unit = lambda t: normalize(t, dim=-1)  # noqa: E731
        return Embeddings(unit(self.image(image)), unit(self.text(text)), self.logit_scale.exp(), self.logit_bias)


def under_ddp(world):
    """The largest error of a parameter's gradient under DDP, by every exact schedule."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4 * world.size, 7, generator=generator, dtype=torch.float64)
    texts = torch.randn(4 * world.size, 3, generator=generator, dtype=torch.float64)
    mine = slice(4 * world.rank, 4 * world.rank + 4)
    worst = 0.0
    for loss in (InfoNCE(), SigLIP()):
        plain = Towers()
        loss.reference(plain(images, texts)).backward()
        for negatives in ("ring", *(f"grid:{r}x{c}" for r, c in grids(world.size))):
            towers = Towers()
            wrapped = nn.parallel.DistributedDataParallel(towers) if world.size > 1 else towers
            sharded(loss, world, negatives)(wrapped(images[mine], texts[mine])).backward()
            for actual, expected in zip(towers.parameters(), plain.parameters(), strict=True):
                expected = torch.zeros_like(actual) if expected.grad is None else expected.grad
                worst = max(worst, float((actual.grad - expected).abs().max()))
    return worst


def everything(world):
    """Both of the above."""
    return every_schedule(world), under_ddp(world)


def grouped(world):
    """(loss, its mean over the groups drawn by hand, the groups of five steps, whether the gradients agree)."""
    every = whole_batch(4 * world.size, extras=False)
    whole = Embeddings(every.image, every.text, every.scale, every.bias, learnt={})
    own = cast(share(whole, world.rank, world.size), torch.float64)
    objective = sharded(InfoNCE(), world, "grouped:2:7")
    members = objective.drawn().members
    value = objective(own)
    drawn = [members] + [(objective.drawn().members, setattr(objective, "step", step + 2))[0] for step in range(4)]
    picked = [share(whole, rank, world.size) for rank in members]
    image, text = (torch.cat([getattr(e, side) for e in picked]) for side in ("image", "text"))
    group = cast(replace(whole, image=image, text=text), torch.float64)
    expected = InfoNCE().reference(group)
    mean = expected.detach().clone()
    dist.all_reduce(mean)
    gradient = torch.autograd.grad(value, own.image)[0]
    place = members.index(world.rank)
    by_hand = (
        torch.autograd.grad(expected, group.image)[0].unflatten(0, (2, -1))[place] * 2
    )  # its group's mean, x members
    return float(value), float(mean) / world.size, drawn, torch.allclose(gradient, by_hand)


def waits_for_a_late_rank(world, late):
    """Seconds in collectives, where the last rank comes `late` seconds after the others."""
    import time

    from vlp.distributed.timing import Collectives, all_reduce_seconds, slowest

    assert all_reduce_seconds(world, 4096) > 0
    assert slowest(world, {"rank": float(world.rank)}) == {"rank": world.size - 1.0}
    if world.rank == world.size - 1:
        time.sleep(late)
    with Collectives() as watch:
        torch.distributed.all_reduce(torch.ones(4))
    return watch.seconds


def comes_late(world):
    """Seconds that this rank waited at the loss, to which rank 1 comes late."""
    objective = sharded(InfoNCE(), world, "grid")
    e = cast(share(whole_batch(4 * world.size, extras=False), world.rank, world.size), torch.float32)
    objective(e)
    before = objective.waited
    time.sleep(0.5 * world.rank)
    objective(e)
    return objective.waited - before
