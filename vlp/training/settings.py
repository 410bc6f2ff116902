"""What can be chosen about training."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlp.errors import UserError
from vlp.training.guard import Guard
from vlp.training.optimizers import Optimizer
from vlp.training.optimizers.adamw import AdamW
from vlp.training.parallel.precision import Precision
from vlp.training.schedules import Schedule
from vlp.training.schedules.cosine import Cosine

# Settings that may differ between the parts of a run that was interrupted: they change no weight, or only its rounding.
FREE = frozenset(
    [
        *("chunk", "compile", "precision", "threads"),
        *("checkpoint_every", "eval_every", "keep", "log_every", "resume", "tensorboard", "wandb"),
    ]
)


@dataclass(frozen=True)
class Training:
    """The optimizer step, how many there are, and what is written down about them."""

    samples: int = 245_000
    """budget: image-text pairs seen, repetitions counted; rounded up to whole batches"""
    batch: int = 256
    """pairs per optimizer step, all ranks together; every pair is contrasted with all others"""
    chunk: int = 0
    """pairs of a rank's batch that are encoded in one graph (gradient caching): less memory, one more forward pass,
    the same gradient; 0: the whole batch"""
    precision: Precision = "auto"
    """auto: bf16 where the device has units for it, else fp32; fp64 is slow, and for proofs"""
    negatives: str = "auto"
    """schedule by which ranks share their negatives: auto, grid, one_sided, ring, grouped (approximate), ..."""
    optimizer: Optimizer = field(default_factory=AdamW)
    """adamw, muon or lion, with its learning rate and weight decay"""
    schedule: Schedule = field(default_factory=Cosine)
    """cosine, linear or constant: how the learning rate falls after its warm-up"""
    clip: float = 1.0
    """largest norm of the whole gradient; 0: any"""
    max_scale: float = 100.0
    """the logit scale (1 / temperature) is kept between 1 and this"""
    ema: float = 0.0
    """weight averaging: decay per step, such as 0.999; the average is what is evaluated and kept; 0: none"""
    guard: Guard = field(default_factory=Guard)
    """when a step is refused"""
    log_every: int = 10
    """steps between two rows of metrics.jsonl"""
    eval_every: int = 0
    """steps between two evaluations; 0: none under way"""
    checkpoint_every: float = 120.0
    """seconds between two checkpoints, 0: one after every step; the end and an interruption always write one"""
    keep: int = 2
    """checkpoints kept"""
    resume: bool = True
    """go on from the newest checkpoint in the run folder; false: remove what is there and start over"""
    compile: bool = False
    """compile the model (torch.compile): minutes at the start, faster steps after"""
    threads: int = 0
    """CPU threads per process; 0: as torch finds them"""
    seed: int = 0
    """all random numbers of a run follow from it"""
    tensorboard: bool = True
    """write tensorboard events beside metrics.jsonl"""
    wandb: str = ""
    """project on Weights & Biases to log to; empty: none"""

    def __post_init__(self) -> None:
        for key in ("samples", "batch", "log_every", "keep"):
            if getattr(self, key) < 1:
                raise UserError(f'"training.{key}" is {getattr(self, key)}, but it should be 1 or more')
        for key in ("chunk", "clip", "eval_every", "checkpoint_every", "threads", "seed"):
            if getattr(self, key) < 0:
                raise UserError(f'"training.{key}" is {getattr(self, key)}, but it should be 0 or more')
        if not 0 <= self.ema < 1:
            raise UserError(f'"training.ema" is {self.ema}, but a decay is 0 (none) or more and below 1, such as 0.999')
        if self.max_scale < 1:
            raise UserError(f'"training.max_scale" is {self.max_scale}, but it should be 1 or more; CLIP has 100')

    @property
    def steps(self) -> int:
        """Optimizer steps that the budget asks for."""
        return -(-self.samples // self.batch)
