"""The settings of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from annotated_types import Ge

from vlp.config import COMMON, MAY_CHANGE
from vlp.config.bounds import AtLeastZero, Count, Decay, Whole, check
from vlp.errors import UserError
from vlp.training.checkpoints.folder import From
from vlp.training.guard import Guard
from vlp.training.optimizers import Optimizer
from vlp.training.optimizers.adamw import AdamW
from vlp.training.parallel import Kind
from vlp.training.parallel.precision import Features, Precision
from vlp.training.schedules import Schedule
from vlp.training.schedules.cosine import Cosine


@dataclass(frozen=True)
class Training:
    """The optimizer step, the budget, and what is recorded."""

    samples: Annotated[Count, COMMON] = 245_000
    """budget: image-text pairs seen, repetitions counted; rounded up to whole batches"""
    batch: Annotated[Count, COMMON] = 256
    """pairs per optimizer step, all ranks together; every pair is contrasted with all others"""
    chunk: Annotated[Whole, COMMON, MAY_CHANGE] = 0
    """pairs of a rank's batch that are encoded in one graph (gradient caching): less memory, one more forward pass;
    the same gradient unless the model has batch norms that are trained; 0: the whole batch"""
    recompute: Annotated[bool, MAY_CHANGE] = False
    """keep the inputs of the towers' blocks alone and encode each block again in the backward (activation
    checkpointing): less memory, a third more arithmetic, the same gradient"""
    precision: Annotated[Precision, COMMON, MAY_CHANGE] = "auto"
    """auto: bf16 where the device has units for it, else fp32; fp16 has a loss scale; fp64 is slow, and for proofs"""
    loss_scale: Annotated[float, Ge(1), MAY_CHANGE] = 65536.0
    """fp16: what the loss is multiplied by at the start; it is halved where a gradient overflows, doubled in time"""
    features: Annotated[Features, MAY_CHANGE] = "auto"
    """what the loss is computed on and what travels between ranks; auto: bf16 where the towers run in bf16 on a GPU"""
    parallel: Annotated[Kind, COMMON, MAY_CHANGE] = "ddp"
    """ddp: every rank has all weights; fsdp2: ranks share them; hybrid: those of a node do, and nodes have copies"""
    negatives: Annotated[str, COMMON] = "auto"
    """how ranks share their negatives: auto, grid, grid:RxC, one_sided, ring; grouped:G is an approximation"""
    optimizer: Optimizer = field(default_factory=AdamW)
    """adamw, muon or lion, with its learning rate and weight decay"""
    schedule: Schedule = field(default_factory=Cosine)
    """cosine, wsd, linear, inverse_sqrt or constant: how the learning rate falls after its warm-up"""
    clip: Annotated[AtLeastZero, COMMON] = 1.0
    """largest norm of the whole gradient; 0: any"""
    max_scale: Annotated[float, Ge(1)] = 100.0
    """the logit scale (1 / temperature) is kept between 1 and this"""
    ema: Annotated[Decay, COMMON] = 0.0
    """weight averaging: decay per step, such as 0.999; the average is what is evaluated and kept; 0: none"""
    init: Annotated[str, COMMON, MAY_CHANGE] = ""
    """start from the weights of a model folder or an open_clip name, as far as they fit; a resumed run needs it not"""
    init_tokenizer: Annotated[bool, MAY_CHANGE] = True
    """take the tokenizer of `init` too, where the model would train one; false: train it on the captions"""
    guard: Guard = field(default_factory=Guard)
    """when a step is refused"""
    log_every: Annotated[Count, MAY_CHANGE] = 10
    """steps between two rows of metrics.jsonl"""
    eval_every: Annotated[Whole, COMMON, MAY_CHANGE] = 0
    """steps between two evaluations, of which the end is one too; 0: never, unless eval_minutes says so"""
    eval_minutes: Annotated[AtLeastZero, MAY_CHANGE] = 0.0
    """minutes between two evaluations; 0: by steps alone"""
    checkpoint_every: Annotated[AtLeastZero, COMMON, MAY_CHANGE] = 120.0
    """seconds between two checkpoints, 0: after every step; the end and an interruption write one too"""
    checkpoints: Annotated[str, MAY_CHANGE] = ""
    """folder or URL (s3://bucket/run, gs://...) of the checkpoints; empty: RUN/checkpoints"""
    keep: Annotated[Count, COMMON, MAY_CHANGE] = 2
    """last checkpoints kept"""
    keep_every: Annotated[Whole, MAY_CHANGE] = 0
    """steps between checkpoints that are written and kept for good; 0: none"""
    keep_best: Annotated[str, MAY_CHANGE] = ""
    """number of the evaluation, such as val/en/image_to_text/recall@1, whose best checkpoint is kept; with a - before
    its name the least is best; empty: none"""
    resume: Annotated[bool, COMMON, MAY_CHANGE] = True
    """go on from the newest checkpoint in the run folder; false: remove what is there and start over"""
    resume_from: Annotated[From, MAY_CHANGE] = "newest"
    """newest; good: the last checkpoint before the guard refused steps; best: the best by keep_best; extend: the
    newest, for more samples or another schedule; with these three, the optimizer's settings may be others too"""
    compile: Annotated[bool, COMMON, MAY_CHANGE] = False
    """compile the towers (torch.compile): minutes at the start, faster steps after"""
    bucket: Annotated[Count, MAY_CHANGE] = 16
    """with compile, texts are padded to a multiple of this many tokens: a tower is compiled once for each length"""
    profile: Annotated[Whole, MAY_CHANGE] = 0
    """steps of which torch's profiler writes a trace to RUN/trace.json, after the first few; 0: none"""
    threads: Annotated[Whole, MAY_CHANGE] = 0
    """CPU threads per process; 0: torch's default"""
    seed: Annotated[Whole, COMMON] = 0
    """all random numbers of a run follow from it"""
    tensorboard: Annotated[bool, MAY_CHANGE] = True
    """write tensorboard events beside metrics.jsonl"""
    wandb: Annotated[str, COMMON, MAY_CHANGE] = ""
    """project on Weights & Biases to log to; empty: none"""

    def __post_init__(self) -> None:
        check(self, "training")
        self.schedule.of(self.steps * self.batch)  # a warm-up that is longer than the run is refused
        if self.keep_best and not self.evaluates:
            raise UserError(
                f'training.keep_best is "{self.keep_best}", but training.eval_every is 0, so that nothing is measured: '
                "give the steps between two evaluations"
            )

    @property
    def evaluates(self) -> bool:
        """Whether anything is measured while training."""
        return bool(self.eval_every or self.eval_minutes)

    def evaluates_after(self, step: int) -> bool:
        """Whether `eval_every` falls on this step."""
        return bool(self.eval_every) and step % self.eval_every == 0

    @property
    def steps(self) -> int:
        """Optimizer steps that the budget asks for."""
        return -(-self.samples // self.batch)

    @cached_property
    def rates(self) -> Schedule:
        """The schedule of this budget: a function of the share that is done. Raises UserError if it does not fit."""
        return self.schedule.of(self.steps * self.batch)
