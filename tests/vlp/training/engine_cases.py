"""What the ranks of a test world train: one small run by every way of laying it out, for the curve of its loss."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from follows import Follows
from tiny_run import TinyStream, pairs

from vlp.distributed.sharded import sharded
from vlp.distributed.sharding import whole as gathered
from vlp.losses.alip import ALIP
from vlp.losses.barlip import BarLIP
from vlp.losses.history import History
from vlp.losses.infonce import InfoNCE
from vlp.models.adapt.lora import Lora
from vlp.models.adapt.towers import ImageSide, TextSide, Towers
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image.resnet import ResNet
from vlp.models.image.timm import Timm
from vlp.models.image_transform import CLIP_MEAN, CLIP_STD
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.text.huggingface import HuggingFace
from vlp.models.text.transformer import Transformer
from vlp.teachers.momentum import Following
from vlp.training.parallel import parallel
from vlp.training.settings import Training
from vlp.training.state import TrainState
from vlp.training.trainer import Trainer

STEPS, BATCH = 5, 16


KEEPING = BarLIP(dims=5, weight=0.1, base=ALIP(base=History()))  # weights of its own, numbers of samples and of the run


def model(*, norm="layer", dropout=0.0, lock=False):
    """Two small towers with blocks, whose sizes four ranks cannot share evenly."""
    torch.manual_seed(0)
    image = ResNet(widths=(6, 10), depths=(1, 2), patch=2, norm=norm)
    text = Transformer(hidden=18, layers=2, heads=3, dropout=dropout)
    return TwoTowers(width=14, image_size=8, image=image, text=text, lock_image=lock).build(41)


def open_clip_model():
    """Small towers of open_clip: a ViT and its text transformer, which take texts of one length."""
    import open_clip

    torch.manual_seed(0)
    image = {"layers": 2, "width": 24, "head_width": 8, "patch_size": 4, "image_size": 8}
    text = {"context_length": 3, "vocab_size": 41, "width": 18, "heads": 3, "layers": 2}
    whole = open_clip.CustomTextCLIP(14, image, text)
    return DualEncoder(whole.visual, whole.text, mean=CLIP_MEAN, std=CLIP_STD)


def library_model():
    """A ViT of timm beside a BERT of transformers."""
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 4}
    small = {"hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 30}
    small |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = HuggingFace("bert", options=small)
    return TwoTowers(width=14, image_size=8, image=Timm(options=options), text=text).build(41)


def adapted_model():
    """The same with adapters in the image tower, and a text tower of which the top alone is trained."""
    encoder = library_model()
    torch.manual_seed(1)
    Towers(ImageSide(lora=Lora(rank=2)), TextSide(lock=True, trained_layers=2)).adapt(encoder)
    return encoder


MODELS = {"ours": model, "open_clip": open_clip_model, "libraries": library_model, "adapted": adapted_model}


def curve(world, folder, *, towers="ours", steps=STEPS, stop=None, **changes):
    """Loss and then gradient norm of each step of a run, None where it was skipped, and what its average embeds.

    `stop`: of its first steps alone; `teacher`: the decay of its momentum teacher, if it has one.
    """
    keeping, decay = changes.pop("keeping", False), changes.pop("teacher", None)
    guide = None if decay is None else Following(decay)
    encoder = MODELS[towers](**{key: changes.pop(key) for key in ("norm", "lock") if key in changes})
    objective = KEEPING if keeping else InfoNCE()
    objective = objective if decay is None else Follows(base=objective)
    encoder.learnt.add(objective.learnt(14))
    base = {"samples": steps * BATCH, "batch": BATCH, "log_every": 1, "tensorboard": False, "checkpoint_every": 1e9}
    training = Training(**{**base, "precision": "fp64", "loss_scale": 16.0, "ema": 0.9, "threads": 1, **changes})

    def stream(state):
        return Ending(state, batch=BATCH, rank=world.rank, size=world.size, stop=stop)

    run = Trainer(training, encoder, objective, open_stream=stream, folder=Path(folder), world=world, guide=guide)
    if stop is not None:
        run = replace(run, training=replace(training, checkpoint_every=0.0))
    average = []
    with contextlib.suppress(Stopped):
        average = [float(run.fit().model.encode_image(pairs(0, 4).image).abs().sum())]
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows] + [row["gradient_norm"] for row in rows] + average


class Stopped(Exception):
    pass


class Ending(TinyStream):
    """A stream that ends after `stop` batches of the run, on all ranks alike."""

    def __init__(self, state, *, stop, **kwargs):
        super().__init__(state, **kwargs)
        self.stop = stop

    def __iter__(self):
        for batch in super().__iter__():
            if self.stop is not None and self.step > self.stop:
                raise Stopped
            yield batch


def curves(world, folder, cases):
    """{name: curve} of the cases, each a dict of settings, one after the other in one world."""
    return {name: curve(world, Path(folder) / name, **changes) for name, changes in cases.items()}


def parts_of_five(world, folder, chain):
    """A run that is stopped after the last step of each part of `chain`, (last step, settings) each."""
    for last, changes in chain:
        curve(world, folder, stop=last, **changes)
        dist.barrier()  # the next part reads what rank 0 has written


def what_ranks_keep(world, kind="fsdp2"):
    """Shares of weights, optimizer and average here, whether scale and best model are whole."""
    training = Training(samples=64, batch=16, ema=0.9, precision="fp32")
    whole = model()
    total = sum(p.numel() for p in whole.parameters())
    state = TrainState(
        training, whole, sharded(InfoNCE(), world), parallel(kind, world, None, chunked=False), augment=None
    )
    state.gradient(next(iter(Ending(None, batch=BATCH, rank=world.rank, size=world.size, stop=None))))
    state.update(1.0, state.clip())
    kept = [entry["exp_avg"] for entry in state.optimizers[0].state.values()]
    shares = [
        sum(here(t) for t in tensors) / total for tensors in (whole.parameters(), kept, state.average.parameters())
    ]
    alone = model().eval()
    alone.load_state_dict({name: gathered(t) for name, t in state.average.module.state_dict().items()})
    best, batch = state.best().eval(), pairs(0, 4)  # its hooks are gone: each rank may encode what it likes
    same = world.rank == 0 or torch.equal(best.encode_image(batch.image), alone.encode_image(batch.image))
    return [*shares, whole.logit_scale.shape == (), same]


def here(tensor):
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).numel()


def everything(world, folder, cases, chain):
    """All of the above, in one world."""
    parts_of_five(world, folder / "parts", chain)
    return {"curves": curves(world, folder, cases), "kept": what_ranks_keep(world)}
