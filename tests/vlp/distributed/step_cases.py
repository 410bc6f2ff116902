"""What ranks compute: the gradient of one optimizer step through DDP, against one float64 process."""

from dataclasses import replace

import torch
from sharded_cases import COMPOSED, LOSSES, TOLERANCE, banked, cut, own_weights, past, schedules, share, strategies
from sharded_cases import whole_batch as earlier
from torch import nn
from torch.nn.functional import normalize

from vlp.batch import Batch, Embeddings
from vlp.distributed.sharded import sharded
from vlp.losses._engine import tile_engine as tiles
from vlp.losses._engine.among import ByDefinition
from vlp.losses.counting import Counting
from vlp.losses.gcl import GCL
from vlp.losses.infonce import InfoNCE
from vlp.losses.m3col import M3CoL
from vlp.losses.multi_positive import MultiPositive
from vlp.losses.poly_view import PolyView
from vlp.models.dual_encoder import Learnt
from vlp.training.gradient import cached, whole_batch

PAIRS, WIDTH, ROWS = 4, 6, 3  # a rank's pairs, width of the embeddings, pairs in a chunk: the last one is shorter

BANKS = ("bank_image", "bank_text", "bank_guide_image", "bank_guide_text")
STEPS = (("whole", whole_batch, 0), ("joined", whole_batch, ROWS), ("cached", cached, ROWS))


class Towers(nn.Module):
    """Two linear towers with a scale and a bias, whose features are rounded to `features`."""

    def __init__(self, dtype, features, *, negatives):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image, self.text = nn.Linear(7, WIDTH), nn.Linear(3, WIDTH)
        self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-1.0))
        with torch.no_grad():
            for p in (*self.image.parameters(), *self.text.parameters()):
                p.copy_(torch.randn(p.shape, generator=generator))
        self.features, self.negatives = features, negatives
        self.learnt = Learnt()
        self.learnt.add(own_weights(dtype))
        self.to(dtype)

    def forward(self, image, text, send=None):
        def unit(t):
            return normalize(t, dim=-1).to(self.features)

        scale, bias, none = self.logit_scale.exp(), self.logit_bias * 1.0, self.logit_scale.new_empty(0)
        texts = none if text is None else unit(self.text(text))
        if send is not None:
            send(texts)
        images = none if image is None else unit(self.image(image))
        if not self.negatives or text is None:
            return Embeddings(images, texts, scale, bias, learnt=self.learnt())
        harder = torch.stack([text.flip(1), text.roll(1, 1)], 1)  # captions that look like the pair's own
        keep = text[:, :2] > -0.5
        wrong = unit(self.text(harder))
        return Embeddings(images, texts, scale, bias, None, None, wrong, keep, learnt=self.learnt())


def batch_of(pairs, dtype):
    """Pairs of a world, some with the same id, with weights; the same on every rank."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(pairs, 7, generator=generator, dtype=torch.float64).to(dtype)
    text = torch.randn(pairs, 3, generator=generator, dtype=torch.float64).to(dtype)
    ids = torch.randint(0, pairs // 2, (pairs,), generator=generator)
    return Batch(image, text, ("",) * pairs, ids, torch.rand(pairs, generator=generator) + 0.1)


def rounded(e, kind):
    """What the loss of one float64 process is given: the rounded features, exactly."""
    names = ("image", "text", "negatives", "scale", "bias", "guide_image", "guide_text", "marks", *BANKS)
    widened = {name: getattr(e, name) for name in names}
    widened = {name: None if t is None else t.to(kind) for name, t in widened.items()}
    return replace(e, **widened)


def taught(batch, e):
    """What a teacher and a table would say of the pairs."""
    image = normalize(batch.image[:, :WIDTH], dim=-1)
    text = normalize(torch.cat([batch.text, batch.text.flip(1)], 1), dim=-1)
    return replace(e, guide_image=image, guide_text=text, marks=batch.image[:, 3:5])


def beside(loss, world, objective=None):
    """A function that gives all that, and the bank of `loss` if it has one: whole, or a rank's for `objective`."""
    whole = earlier(5 * world.size, extras=False)
    own = share(whole, world.rank, world.size)

    def given(batch, e):
        e = taught(batch, e)
        if loss.bank is None:
            return e
        e = replace(e, **{name: getattr(whole if objective is None else own, name).to(e.image.dtype) for name in BANKS})
        return e if objective is None else banked(e, objective, whole)

    return given


def oracle(loss, world, features, **options):
    """(the gradients of one process with all pairs, what it keeps), by the definition, in float64."""
    towers, batch = Towers(torch.float64, features, **options), batch_of(PAIRS * world.size, torch.float64)
    alone = ByDefinition(past(loss, PAIRS * world.size))
    reference = lambda e: loss(rounded(e, torch.float64), alone)  # noqa: E731
    whole_batch(towers, reference, batch, seed=0, beside=beside(loss, world))
    return [p.grad for p in towers.parameters()], alone.kept


def every_step(world):
    """'' or what is wrong: objective x schedule x {whole, cached} x {float64, float32, bfloat16 features}."""
    tiles.EDGE["cpu"] = 4
    wrong = []
    mine = slice(PAIRS * world.rank, PAIRS * (world.rank + 1))
    for loss in (*LOSSES, *COMPOSED):
        for features in (torch.float64, torch.float32, torch.bfloat16)[: 3 if loss in LOSSES else 1]:
            expected, kept = oracle(loss, world, features, negatives=True)
            dtype = torch.promote_types(features, torch.float32)
            batch = batch_of(PAIRS * world.size, dtype)[mine]
            for negatives in schedules(loss, world.size):
                for name, step, rows in STEPS if loss in LOSSES or negatives == "ring" else STEPS[2:]:
                    towers, objective = Towers(dtype, features, negatives=True), sharded(loss, world, negatives)
                    before = past(loss, PAIRS * world.size)
                    objective.begin({key: cut(t, world.rank, world.size) for key, t in before.items()})
                    options = {"step": step, "rows": rows, "beside": beside(loss, world, objective)}
                    errors = stepped(world, towers, objective, batch, expected=expected, **options)
                    errors += [apart(objective.kept[n], cut(t, world.rank, world.size)) for n, t in kept.items()]
                    if not max(errors) < TOLERANCE[features]:
                        wrong.append(f"{loss} {negatives} {name} {features}: {max(errors):.1e}")
    return "\n".join([*wrong, *of_the_stream(world)])


def stepped(world, towers, objective, batch, *, expected, step, rows, **options):
    """How far the gradient of each parameter is from the expected one after a step under DDP."""
    model = towers
    if world.size > 1:
        chunked = step is cached
        model = nn.parallel.DistributedDataParallel(towers, find_unused_parameters=chunked)
        options |= {"unsynced": model.no_sync} if chunked else {}
    step(model, objective, batch, seed=0, rows=rows, send=objective.send_ahead, **options)
    return [apart(p.grad, e) for p, e in zip(towers.parameters(), expected, strict=True)]


def of_the_stream(world):
    """What is wrong where the batch brings two views, two captions and two wrong captions of each picture."""
    mine = slice(PAIRS * world.rank, PAIRS * (world.rank + 1))
    whole = batch_of(PAIRS * world.size, torch.float64)
    wrong_ones, keep = torch.stack([whole.text.flip(1), whole.text.roll(1, 1)], 1), whole.text[:, :2] > -0.5
    views, texts = torch.stack([whole.image, whole.image.flip(1)], 1), torch.stack([whole.text, -whole.text], 1)
    whole = replace(whole, image=views, text=texts, negatives=wrong_ones, negatives_keep=keep)
    found = []
    for loss in (InfoNCE(), Counting(base=MultiPositive()), PolyView(), GCL(), M3CoL()):
        towers, kind = Towers(torch.float64, torch.float64, negatives=False), {"takes_all": loss.takes_all}
        whole_batch(towers, loss.reference, whole, seed=0, **kind)
        expected = [p.grad for p in towers.parameters()]
        for negatives in ("ring", strategies(world.size)[-1]):
            for name, step, rows in STEPS[::2]:
                towers = Towers(torch.float64, torch.float64, negatives=False)
                objective = sharded(loss, world, negatives)
                errors = stepped(world, towers, objective, whole[mine], expected=expected, step=step, rows=rows, **kind)
                if not max(errors) < TOLERANCE[torch.float64]:
                    found.append(f"{loss} {negatives} {name}, of the stream: {max(errors):.1e}")
    return found


def apart(actual, expected):
    """Norm of the difference, relative to that of the gradient; a gradient near 0 is compared with 0.01."""
    return float((actual.double() - expected).norm() / (expected.norm() + 1e-2))
