"""What the ranks of a test world count: bytes that the loss receives, and the memory of a simulated rank."""

from dataclasses import replace

import torch
from sharded_cases import COMPOSED, banked, cast, share, whole_batch
from torch.nn.functional import normalize

from vlp.batch import Embeddings
from vlp.distributed.sharded import sharded
from vlp.losses.hn_nce import HNNCE
from vlp.losses.infonce import InfoNCE
from vlp.losses.multi_positive import MultiPositive
from vlp.losses.siglip import SigLIP


def counted_bytes(world, peers):
    """[(strategy, bytes counted, bytes predicted)] of this rank, with `peers` open_clip's losses among them.

    As the trainer calls it: captions are sent ahead, features travel as `training.features` says.
    """
    from vlp.distributed.plan import cost
    from vlp.distributed.plan.traffic import Traffic

    pairs, width, size = 16, 24, world.size  # 16: every count below is a whole number of bytes
    actual = []
    kinds = ((InfoNCE(), 1, None), (SigLIP(), 0, None), (HNNCE(), 3, None), (InfoNCE(), 1, torch.bfloat16))
    for loss, statistics, features in kinds:
        element = features.itemsize if features else 4
        shape = {"ranks": size, "pairs": pairs, "width": width, "element": element}
        setup = cost.Setup(**shape, per_node=world.local_size, statistics=statistics)
        whole = [normalize(torch.randn(pairs, width), dim=-1).requires_grad_() for _ in range(2)]
        e = Embeddings(*whole, torch.tensor(10.0), torch.tensor(0.0))
        for predicted in cost.candidates(setup):
            if predicted.name.startswith("grouped"):
                continue
            objective = sharded(loss, world, predicted.name, features=features)
            with Traffic() as traffic:
                objective.send_ahead(e.text)
                objective(e).backward()
            actual.append((f"{type(loss).__name__} {predicted.name}", traffic.total, predicted.received))
            actual.append(("what the trainer says", objective.received, predicted.received))
        if loss == InfoNCE():
            for negatives in (f"grid:2x{size // 2}", "ring"):
                actual.append(counted_beside(world, negatives, features))
                actual += [counted_composed(composed, world, negatives, features) for composed in COMPOSED]
        if peers and statistics == 1 and features is None:
            from open_clip.loss import ClipLoss

            for row, options in zip(cost.open_clip(setup), ((True, True), (False, True), (True, False)), strict=False):
                peer = ClipLoss(*options, rank=world.rank, world_size=size)
                with Traffic() as traffic:
                    peer(e.image, e.text, e.scale).backward()
                actual.append((row.name, traffic.total, row.received))
    return actual


def counted_beside(world, negatives, features):
    """The same of a run whose pairs have ids and weights, and two captions each, of which the first is sent ahead."""
    from vlp.distributed.plan.traffic import Traffic

    e = cast(share(whole_batch(16 * world.size, extras=True), world.rank, world.size), torch.float32)
    e = replace(e, negatives=None, negatives_keep=None, bank_image=None, bank_text=None)
    objective = sharded(MultiPositive(), world, negatives, features=features)
    with Traffic() as traffic:
        objective.send_ahead(e.text)
        (objective(e) + objective(replace(e, text=e.text.detach().flip(1).requires_grad_()))).backward()
    return f"ids and weights, {negatives} {features}", traffic.total, objective.received


def counted_composed(objective, world, negatives, features):
    """The same of an objective that is composed of losses and of sums over ranks."""
    from vlp.distributed.plan.traffic import Traffic

    e = cast(share(whole_batch(16 * world.size, extras=False), world.rank, world.size), torch.float32)
    function = sharded(objective, world, negatives, features=features)
    e = banked(e, function, whole_batch(16 * world.size, extras=False))
    with Traffic() as traffic:
        function.send_ahead(e.text)
        function(e).backward()
    return f"{objective}, {negatives} {features}", traffic.total, function.received


def simulate(pipe, negatives, size, *, pairs, width, dtype):
    """Sends the peak bytes of one simulated rank of `size`, ours or open_clip's."""
    from vlp.distributed.plan.simulation import fake_world, peak_of, simulated_peak

    torch.set_num_threads(1)
    shape = {"pairs": pairs, "width": width, "dtype": dtype}
    if negatives != "open_clip":
        pipe.send(simulated_peak(InfoNCE(), negatives, size=size, per_node=8, **shape))
        return
    from open_clip.loss import ClipLoss

    with fake_world(size, 8):
        peer = ClipLoss(local_loss=True, gather_with_grad=True, rank=0, world_size=size)
        pipe.send(peak_of(lambda e: peer(e.image, e.text, e.scale.to(dtype)), **shape))
