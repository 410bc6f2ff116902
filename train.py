"""Train a dual encoder: read the configuration, connect the ranks, build the parts, fit.

python train.py demo                                     one process
torchrun --nproc-per-node 2 train.py demo                two
accelerate launch --multi_gpu --num_processes 2 train.py demo        two (without GPUs too)
vlp train demo --training.samples 10000                  the same program as a command
"""

from __future__ import annotations

import hashlib
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from data_pipelines.ledger import DropBudgetExceeded, Ledger
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.pipeline import Pipeline, PipelineLoader
from data_pipelines.loading.planned import EpochPlan
from data_pipelines.stream import OpenSources, Stream
from eval.embeddings.by_sample import vectors
from eval.embeddings.together import Ranks, SharedRelease
from eval.finished import finish, record_losses
from eval.plans.epochs import EpochPlans, Planning
from eval.while_training import RECORD as VALIDATION
from eval.while_training import Validation
from vlp.augment import Augment
from vlp.augment.none import Unchanged
from vlp.choosers import Chooser
from vlp.choosers.none import Everything
from vlp.config import COMMON, PRESETS, component_name, dump, identity, parse, run_main, to_tree
from vlp.config.bounds import Positive, Share, Whole
from vlp.distributed.background import BackgroundGroup
from vlp.distributed.collectives import gather_objects
from vlp.distributed.world import World, connect
from vlp.errors import UserError
from vlp.files import check_writable, write_whole
from vlp.lock import locked
from vlp.losses import Objective
from vlp.losses.infonce import InfoNCE
from vlp.models import Model, release
from vlp.models.adapt.starting_point import start_from
from vlp.models.adapt.towers import Towers
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image_transform import EvaluationCrop, RandomCrop
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.tokenizer import FastTokenizer, Tokenizer
from vlp.record import versions
from vlp.teachers import Given, Guide, Teacher, refuse_idle
from vlp.teachers.none import Nobody
from vlp.training.allocator import keep_freed_memory
from vlp.training.checkpoints.folder import Checkpoints, Keep
from vlp.training.checkpoints.store import place_of
from vlp.training.interruption import REQUEUE, Interrupted, OutsideTheLoop
from vlp.training.settings import Training
from vlp.training.shared_tokenizer import shared_tokenizer
from vlp.training.trainer import Evaluate, Fitted, Trainer
from vlp.training.unlocking import Unlocking

TOKENIZER_SAMPLES = 500_000  # pairs that a BPE is trained on; a few thousand merges learn nothing from more


@dataclass(frozen=True)
class RunConfig:
    """Everything about one training run: data, model, objective, optimizer step, and where it goes."""

    out: Annotated[Path, COMMON] = Path("runs/train")
    """folder of the run: checkpoints, metrics.jsonl, config.toml, and in the end the model folder"""
    data: Stream = field(default_factory=Stream)
    """shards, order, captions: what is read and how"""
    model: Model = field(default_factory=TwoTowers)
    """towers, tokenizer, picture size"""
    towers: Towers = field(default_factory=Towers)
    """what of each tower is trained: locks, adapters, patch dropout"""
    picture: Annotated[Whole, COMMON] = 0
    """side at which pictures leave the stream, pixels, where the augmentation resizes; 0: the model's own"""
    crop: Annotated[tuple[Share, Share], COMMON] = (1.0, 1.0)
    """random resized crops: their least and greatest share of the picture; 1, 1: the evaluation's crop"""
    crop_ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    """width / height of random crops: least and greatest"""
    augment: Augment = field(default_factory=Unchanged)
    """what else happens to pictures: each by itself in the stream, or batch by batch on the device"""
    loss: Objective = field(default_factory=InfoNCE)
    """the objective"""
    choose: Chooser = field(default_factory=Everything)
    """which pairs of a larger batch are trained on (jest)"""
    plan: Planning = field(default_factory=Planning)
    """which samples come together in a batch, by what a model finds alike"""
    teacher: Teacher = field(default_factory=Nobody)
    """what says of pairs how near they are, for objectives that are guided"""
    training: Training = field(default_factory=Training)
    """optimizer step, budget, checkpoints"""
    eval: Validation = field(default_factory=Validation)
    """what is measured while training (training.eval_every, eval_minutes): tasks, each with the shard set it runs on"""

    def __post_init__(self) -> None:
        """Raises UserError for a crop whose shares are in the wrong order."""
        if not 0 < self.crop[1] >= self.crop[0]:
            raise UserError(
                f'"crop" is {self.crop[0]:g}, {self.crop[1]:g}, but it should be the least share of the picture '
                "and then the greatest, from 0 to 1"
            )
        if self.crop_ratio[0] > self.crop_ratio[1]:
            raise UserError(
                f'"crop_ratio" is {self.crop_ratio[0]:g}, {self.crop_ratio[1]:g}, but the least should come first'
            )
        self.data.refuse_equal_views(varied=self.crop != (1.0, 1.0) or self.augment != Unchanged())


def main(argv: Sequence[str]) -> int:
    """Run the training that `argv` (presets, then flags) describes; 0 when it is complete."""
    presets = ", ".join(sorted(path.stem for path in PRESETS.glob("*.toml")))
    run = parse(
        RunConfig, argv, "vlp train", f"{__doc__}\n{textwrap.fill(f'Presets, or a .toml file: {presets}', 100)}"
    )
    try:
        with OutsideTheLoop(), connect() as world:
            if world.rank == 0:
                check_writable(run.out)
            with locked(run.out) if world.rank == 0 else nullcontext():
                if world.rank == 0:
                    (run.out / REQUEUE).unlink(missing_ok=True)
                train(run, world)
    except Interrupted as stop:
        stop.leave_word(run.out)
        return int(str(stop.code))  # every rank was asked to stop: nobody failed
    return 0


def train(run: RunConfig, world: World) -> None:
    """Train, and leave the model folder in RUN/model. All ranks participate."""
    if world.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(run.training.seed)
    refuse_lacking(run)
    sources = run.data.sources()
    if sources.note and world.rank == 0:
        print(sources.note)
    group = BackgroundGroup.open(world)
    on = group.from_rank_0(lambda: going_on(run))
    source = release.load(run.training.init) if run.training.init and not on else None
    tokenizer = shared_tokenizer(
        run.out,
        {"run": identity(run), "shards": sources.sha256, "init": run.training.init, "own": run.training.init_tokenizer},
        lambda: tokenizer_of(run, sources, source),
        group,
        use="kept" if on else "same" if run.training.resume else "new",
    )
    encoder = run.model.build(tokenizer.vocab, weights=not on)
    run.model.start(encoder, scale=run.loss.start_scale, bias=run.loss.start_bias)
    started = ""
    if source is not None:
        start, transform = run.loss.start_bias, run.model.transform()
        started = start_from(encoder, tokenizer, source, bias=start, transform=transform).table()
    run.towers.adapt(encoder)
    learn(run.loss, encoder, tokenizer)
    guide = run.teacher.open(Given(tokenizer, lambda folder: vectors(folder, sources, group)))
    if world.rank == 0 and (what := run.towers.sentence(encoder)):
        print(what)
    if world.rank == 0 and (not on or run.training.resume_from == "extend"):
        write_whole(run.out / "config.toml", dump(run))
    if world.rank == 0 and started:
        write_whole(run.out / "init.txt", f"{started}\n")
        print(started)
    try:
        fitted = trainer(run, world, encoder, tokenizer, sources, guide=guide).fit()
    except DropBudgetExceeded as error:
        write_whole(run.out / "drop_budget.txt", f"{error}\n", shared=True)
        raise
    if world.rank == 0:
        finish(run.out, run.model, fitted, tokenizer, notes=notes_of(run, fitted, sources))


def refuse_lacking(run: RunConfig) -> None:
    """Raise UserError if the objective needs something that nothing in the run gives."""
    for name in run.loss.needed:
        if lacking := run.data.lacks(name):
            raise UserError(f'loss.name "{component_name(run.loss, Objective)}" needs {lacking}')
    needed = (*run.loss.needed, *run.choose.needs)
    asks = component_name(run.choose, Chooser) if run.choose.needs else component_name(run.loss, Objective)
    asks = f'{"choose" if run.choose.needs else "loss"}.name "{asks}"'
    refuse_idle(asks, component_name(run.teacher, Teacher), needed)


def learn(loss: Objective, encoder: DualEncoder, tokenizer: Tokenizer) -> None:
    """Give the model the weights that its objective learns, if it learns any."""
    if loss.learnt(1):
        with torch.no_grad():
            width = encoder.eval().encode_text(tokenizer(["a"])).shape[-1]
        encoder.train()
        encoder.learnt.add(loss.learnt(width))


def going_on(run: RunConfig) -> bool:
    """Whether there is a part of this run to go on from, which then has the weights."""
    checkpoints = Checkpoints(place_of(run.training.checkpoints, run.out), Keep())
    usable = checkpoints.good() if run.training.resume_from == "good" else checkpoints.all()
    return run.training.resume and bool(usable)


def tokenizer_of(run: RunConfig, sources: OpenSources | Pipeline, source: release.Release | None) -> Tokenizer:
    """The tokenizer of what the run starts from, or the model's own."""
    own = None
    if source is not None and run.training.init_tokenizer:
        own = run.model.adopt(source.tokenizer)
    return own or run.model.tokenizer(captions(run.data, sources))


def trainer(
    run: RunConfig,
    world: World,
    encoder: DualEncoder,
    tokenizer: Tokenizer,
    sources: OpenSources | Pipeline,
    *,
    guide: Guide | None = None,
) -> Trainer:
    """The parts of the run, put together."""
    shared = {"augment": to_tree(run.augment)} | ({"towers": to_tree(run.towers)} if run.towers != Towers() else {})
    shared |= {"choose": to_tree(run.choose)} if run.choose != Everything() else {}
    shared |= {"plan": to_tree(run.plan)} if run.plan != Planning() else {}
    beside = tokenizer, run.model.transform()
    planner = EpochPlans.of(run.plan, run.out, world, sources, captions=run.data.captions, beside=beside)
    reads = guide.tokenizer if guide else None
    if guide:
        name = component_name(run.teacher, Teacher)
        shared["teacher"] = {"kind": name, "weights": guide.id, **identity(run.teacher)}

    def streams(state: Any) -> Loader | PipelineLoader:
        plan = planner.followed(state) if planner else None
        return open_stream(run, tokenizer, sources, world, state=state, plan=plan, teacher=reads)

    return Trainer(
        training=run.training,
        model=encoder,
        loss=run.loss,
        open_stream=streams,
        folder=run.out,
        world=world,
        choose=run.choose,
        planner=planner,
        evals=evaluations(run, tokenizer, world),
        augment=run.augment,
        unlocking=Unlocking(encoder, run.towers),
        identity={"model": to_tree(run.model), "data": data_identity(run), **shared},
        earlier={"data": identity(Stream())},
        saving=lambda streams: record_losses(run.out, streams, run.data.drop_budget),
        context=tokenizer.context if isinstance(tokenizer, FastTokenizer) else 0,
        example=next(iter(open_stream(run, tokenizer, sources, World.alone(), batch=8))),
        guide=guide,
    )


def open_stream(
    run: RunConfig,
    tokenizer: Tokenizer,
    sources: OpenSources | Pipeline,
    world: World,
    *,
    state: Any = None,
    batch: int = 0,
    plan: EpochPlan | None = None,
    teacher: Tokenizer | None = None,
) -> Loader | PipelineLoader:
    """The batches of this rank; `batch` pairs each, made without workers, or as many as the training wants."""
    own = run.model.transform()
    size = run.picture or own.size
    whole = run.crop == (1.0, 1.0)
    crop = EvaluationCrop(replace(own, size=size)) if whole else RandomCrop(size, run.crop, run.crop_ratio)
    data = replace(run.data, workers=replace(run.data.workers, count=0)) if batch else run.data
    return data.open(
        transform=run.augment.in_stream(crop),
        tokenizer=tokenizer,
        global_batch=batch or run.choose.candidates(run.training.batch),
        rank=world.rank,
        size=world.size,
        seed=run.training.seed,
        state=state,
        sources=sources,
        plan=plan,
        teacher=teacher,
    )


def captions(data: Stream, sources: OpenSources | Pipeline) -> Iterator[str]:
    """Every caption and tag of the training data, for the tokenizer; up to 500,000 pairs are read."""
    for sample in islice(sources.samples(skip=Ledger()), TOKENIZER_SAMPLES):
        texts = [text for language in sample.captions for text in sample.said(language)]
        texts += [tag for tags in dict(sample.metadata.get("tags") or {}).values() for tag in tags]
        yield from texts
        asked = (text for path in data.captions.weights for text in sample.said(path))
        yield from dict.fromkeys(text for text in asked if text not in texts)


def data_identity(run: RunConfig) -> Mapping[str, Any]:
    """What a resumed run must share of the data; how fast it is read may differ."""
    ratio = {} if run.crop_ratio == RandomCrop.ratio else {"crop_ratio": list(run.crop_ratio)}
    return {"picture": run.picture, "crop": list(run.crop), **ratio, **identity(run.data)}


def evaluations(run: RunConfig, tokenizer: Tokenizer, world: World) -> Mapping[str, Evaluate]:
    """What `eval` names, as the trainer calls it; nothing where the run does not evaluate."""

    ranks = Ranks(world.rank, world.size, gather_objects) if world.size > 1 else Ranks()

    def as_release(model: nn.Module) -> release.Release:
        assert isinstance(model, DualEncoder)
        return SharedRelease(model, tokenizer, run.model.transform(), "", str(run.out), ranks=ranks)

    if not run.training.evaluates:
        return {}
    record = run.out / VALIDATION if world.rank == 0 else None
    return run.eval.evaluations(as_release, transform=run.model.transform(), record=record, ranks=ranks)


def notes_of(run: RunConfig, fitted: Fitted, sources: OpenSources | Pipeline) -> dict[str, str]:
    """What the model folder says of the run that made it."""
    return {
        "seed": str(run.training.seed),
        "samples": str(fitted.samples),
        "data": ", ".join(run.data.names),
        **({"init": run.training.init} if run.training.init else {}),
        "data_sha256": hashlib.sha256("".join(sources.sha256).encode()).hexdigest() if sources.sha256 else "",
        **versions(),
    }


if __name__ == "__main__":
    sys.exit(run_main(main))
