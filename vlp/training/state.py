"""The moving parts of one run: what changes from step to step, and what a checkpoint therefore keeps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vlp.augment import Augment, of_rows
from vlp.batch import Batch, Embeddings
from vlp.distributed.sharded import Sharded
from vlp.training.average import averaged
from vlp.training.choosing import Choosing, Chosen
from vlp.training.companion import Companion
from vlp.training.forwards import Forwards
from vlp.training.gradient import Buffers, cached, whole_batch
from vlp.training.guard import Watch
from vlp.training.optimizers import set_progress
from vlp.training.parallel import Parallel
from vlp.training.parallel.precision import resolve
from vlp.training.scaler import Scaler
from vlp.training.settings import Training
from vlp.training.teaching import Teaching


@dataclass
class Tally:
    """Sums since the last logged row, and counts since the start of the run."""

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    norm: float = 0.0
    steps: int = 0  # accepted ones among them
    row_step: int = 0  # where the last logged row stood
    row_seconds: float = 0.0

    def add(self, loss: float, norm: float) -> None:
        """Count an accepted step; a refused one stays out of the means."""
        self.steps += 1
        self.loss += loss
        self.norm += norm


class TrainState:
    """One run on one rank. All ranks make the same calls in the same order."""

    def __init__(
        self,
        settings: Training,
        module: nn.Module,
        objective: Sharded,
        parallel: Parallel,
        augment: Augment | None,
        *,
        companions: Sequence[Companion] = (),
        choosing: Choosing | None = None,
    ) -> None:
        self.companions, self.choosing = companions, choosing
        self.chosen: Chosen | None = None  # at this step
        self.settings, self.parallel, self.augment, self.objective = settings, parallel, augment, objective
        self.world = parallel.world
        precision = resolve(settings.precision, self.world.device)
        self.module = module.to(self.world.device, torch.float64 if precision == "fp64" else None).train()
        self.average = averaged(module, settings.ema) if settings.ema else None
        copies = [copy for one in companions if isinstance(one, Teaching) for copy in one.guide.copies]
        parallel.place(module, *([self.average.module] if self.average else []), *copies)
        self.optimizers = settings.optimizer.build(module)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.watch: Watch = settings.guard.watch()
        self.scaler = Scaler.of(settings.loss_scale if precision == "fp16" else None)
        self.tally = Tally()
        self.norms: dict[str, float] = {}  # of the towers' gradients, at steps that are logged
        self.reported = (0.0, 0.0)  # of the bytes that the objective received, and the seconds it waited
        self.forwards = Forwards.of(
            module,
            self.world.device,
            parallel.half,
            compiled=settings.compile,
            recomputed=settings.recompute,
            by_block=parallel.shards > 1,
        )
        self.model = parallel.wrap(module)

    @property
    def step(self) -> int:
        """Optimizer steps done, refused ones included."""
        return self.tally.step

    @property
    def samples(self) -> int:
        """Pairs seen by all ranks together."""
        return self.tally.step * self.settings.batch

    def best(self) -> nn.Module:
        """The model to evaluate and to keep, whole on this rank: the average if there is one. All ranks participate."""
        return self.parallel.whole(self.average.module if self.average is not None else self.module)

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """A context in which `best` is in evaluation mode, with its own forwards. All ranks participate."""
        model = self.best()
        training = model.training
        with self.forwards.paused():
            model.eval()
            yield model
            model.train(training)

    def gradient(self, batch: Batch) -> float:
        """The global mean loss; the mean gradient is in the parameters. All ranks participate and sync once."""
        self.buffers = Buffers(self.module)
        self.objective.step = self.step  # what a schedule draws at random follows from it, also in a resumed run
        seed = noise(self.settings.seed, self.step, self.world.rank)
        if self.choosing is None:
            batch = self.augmented(batch)
        objective = self.scaler.over(self.objective)
        common: dict[str, Any] = {"seed": seed, "send": self.objective.send_ahead, "beside": self.beside}
        common["takes_all"] = self.objective.objective.takes_all
        if 0 < self.settings.chunk < len(batch):
            sync: dict[str, Any] = {
                "unsynced": partial(self.parallel.unsynced, self.model),
                "texts_sync": self.parallel.texts_sync,
            }
            loss = cached(self.model, objective, batch, rows=self.settings.chunk, known=self.known(), **common, **sync)
        else:
            loss = whole_batch(self.model, objective, batch, **common)
        self.parallel.settle(self.module)
        return self.scaler.undo(loss, self.parameters)

    def augmented(self, batch: Batch) -> Batch:
        """The batch of this rank with its pictures augmented, as those of one process with all pairs would be."""
        if self.augment is None:
            return batch
        whole = noise(self.settings.seed, self.step, -1)  # every rank's rows come out of one draw
        generator = torch.Generator(self.world.device).manual_seed(whole)
        first, total = self.world.rank * len(batch), len(batch) * self.world.size
        return replace(batch, image=of_rows(self.augment, batch.image, generator, first=first, total=total))

    def choose(self, batch: Batch) -> Batch:
        """The pairs that are trained on, augmented, out of those that the stream gave. All ranks participate."""
        if self.choosing is None:
            return batch
        self.chosen = self.choosing(self.module, self.augmented(batch), (self.settings.seed, self.step))
        return self.chosen.batch

    def known(self) -> Embeddings | None:
        """The embeddings of this step's batch without a graph, where a choice has made them. All ranks participate."""
        if self.choosing is None or self.chosen is None:
            return None
        return self.choosing.reusable(self.module, self.chosen, lambda flag: self.parallel.any_rank(flag)[0])

    def beside(self, batch: Batch, e: Embeddings) -> Embeddings:
        """The embeddings with what the companions of the run have to say of them (all ranks take part)."""
        for companion in self.companions:
            if self.chosen is not None and isinstance(companion, Teaching) and e.image.ndim == e.text.ndim == 2:
                said = self.chosen.features  # the teacher was asked for the choice, and says the same
                e = replace(e, guide_image=said.guide_image, guide_text=said.guide_text)
            else:
                e = companion.beside(batch, e)
        return e

    def clip(self) -> float:
        """The norm of the whole gradient, which is at most the setting `clip` afterwards."""
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if (self.step + 1) % self.settings.log_every == 0:
            self.norms = {f"gradient_norm_{name}": self.norm_of(name) for name in ("image", "text")}
        if self.settings.clip:
            clip_grads_with_norm_(self.parameters, self.settings.clip, norm)
        return self.parallel.number(norm)

    def tower_rates(self) -> dict[str, float]:
        """The largest learning rate in each tower that has weights to train."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        largest = {}
        for name in ("image", "text"):
            tower = getattr(self.module, f"{name}_tower", nn.Module())
            if own := [rates[id(p)] for p in tower.parameters() if id(p) in rates]:
                largest[f"learning_rate_{name}"] = max(own)
        return largest

    def norm_of(self, side: str) -> float:
        """The norm of one tower's gradient, before it is clipped; 0 where it has none (all ranks participate)."""
        tower = getattr(self.module, f"{side}_tower", None)
        gradients = [p.grad for p in tower.parameters() if p.grad is not None] if tower is not None else []
        return self.parallel.number(get_total_norm(gradients)) if gradients else 0.0

    @torch.no_grad()
    def update(self, loss: float, norm: float) -> None:
        """Move weights and average and keep the logit scale in its bounds, unless scaler or guard refuses the step.

        Loss and norm are the same on all ranks, so all come to the same verdict.
        """
        self.watch.verdict = ""
        if self.scaler.overflowed(loss, norm) or self.watch.judge(loss, norm):
            self.buffers.restore()  # what a bad batch did to running statistics
        else:
            self.advance()
            for companion in self.companions:
                companion.taken()
            self.tally.add(loss, norm)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.tally.step += 1

    def advance(self) -> None:
        """Move weights and average along the gradient, and keep the logit scale in its bounds."""
        progress = self.settings.rates((self.step + 0.5) / self.settings.steps)
        set_progress(self.optimizers, progress * self.watch.rate)
        for optimizer in self.optimizers:
            optimizer.step()
        if isinstance(scale := getattr(self.module, "logit_scale", None), Tensor):
            scale.clamp_(0.0, math.log(self.settings.max_scale))
        if self.average is not None:
            self.average.update_parameters(self.module)

    def release(self) -> None:
        """Give the modules their own forwards again, at the end of the run."""
        self.forwards.put_back()
        self.parallel.release()

    def row(self) -> dict[str, float]:
        """The numbers since the last logged row (means over its steps), which end with this call."""
        tally, steps = self.tally, max(self.tally.steps, 1)
        pairs = (tally.step - tally.row_step) * self.settings.batch
        row = {
            "step": self.step,
            "samples": self.samples,
            **({} if self.choosing is None else {"samples_looked_at": self.step * self.choosing.candidates}),
            "seconds": round(tally.seconds, 3),
            "loss": tally.loss / steps if tally.steps else math.nan,
            "gradient_norm": tally.norm / steps if tally.steps else math.nan,
            "learning_rate": self.optimizers[0].param_groups[0]["lr"],
            **self.tower_rates(),
            "samples_per_second": round(pairs / max(tally.seconds - tally.row_seconds, 1e-9), 2),
            "refused": self.watch.refused,
            **self.norms,
            **self.scaler.row(),
        }
        if self.world.size > 1:
            before, self.reported = self.reported, (self.objective.received, self.objective.waited)
            row["loss_bytes_received"] = (self.reported[0] - before[0]) / max(tally.step - tally.row_step, 1)
            row["seconds_waiting_for_ranks"] = round(self.reported[1] - before[1], 3)
        for name, value in (("scale", "logit_scale"), ("bias", "logit_bias")):
            if isinstance(tensor := getattr(self.module, value, None), Tensor):
                row[name] = float(tensor.detach().exp() if name == "scale" else tensor.detach())
        tally.loss = tally.norm = 0.0
        tally.steps = 0
        tally.row_step, tally.row_seconds = tally.step, tally.seconds
        return row


def noise(seed: int, step: int, rank: int) -> int:
    """A seed for the random numbers of one step on one rank: no state to save, and a resumed run draws the same."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=7).digest(), "little")
