"""The plans of a run: made by the model in training, or by another, every few epochs, and kept in RUN/plans."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data_pipelines.loading.arranged import Alike, Arranging
from data_pipelines.loading.loader import Loader
from data_pipelines.loading.pipeline import Pipeline
from data_pipelines.loading.planned import EpochPlan, Planned, bound_to
from data_pipelines.loading.position import plan_of
from data_pipelines.plans import Plan
from data_pipelines.plans.none import Unplanned
from eval.plans.alike import clusters, kind_for, neighbours
from eval.plans.vectors import Embedding, Kind, Vectors
from vlp.config import component_name
from vlp.config.bounds import Count, Whole
from vlp.distributed.background import BackgroundGroup
from vlp.errors import UserError
from vlp.models import release
from vlp.models.dual_encoder import DualEncoder
from vlp.models.release import Release

if TYPE_CHECKING:
    from torch import nn

    from data_pipelines.settings import Captions
    from data_pipelines.stream import OpenSources
    from vlp.distributed.world import World
    from vlp.models.image_transform import ImageTransform
    from vlp.models.tokenizer import Tokenizer

SCRATCH = "scratch"  # in the folder of the plans: vectors and neighbours, while they are needed


@dataclass(frozen=True)
class Planning:
    """Which samples come together in a batch, by what a model finds alike."""

    order: Plan = field(default_factory=Unplanned)
    """how an epoch is ordered"""
    every: Count = 1
    """epochs that a plan is for; then the training set is embedded again"""
    start: Whole = 1
    """epochs without a plan at the beginning, while the model finds nothing; with `model` there are none"""
    vectors: Literal["images", "texts", "across"] = "images"
    """what is compared: pictures, captions, or each caption with the pictures; `clusters` take pictures for the last"""
    model: str = ""
    """model folder that says what is alike; empty: the model in training"""
    exact_up_to: Count = 50_000
    """samples of a source up to which all are compared with all; more are sorted into cells"""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The vectors that are needed."""
        if self.vectors == "across":
            return ("images", "texts") if self.order.asks == "neighbours" else ("images",)
        return (self.vectors,)


@dataclass
class EpochPlans:
    """The plans of one run on one rank. All ranks make the same calls."""

    settings: Planning
    run: Path
    group: BackgroundGroup
    device: str
    sources: OpenSources
    captions: Captions
    beside: tuple[Tokenizer, ImageTransform]  # what makes a release of the model in training
    _kept: list[Alike] | None = None  # of a model that does not change

    @staticmethod
    def of(
        settings: Planning,
        run: Path,
        world: World,
        sources: OpenSources | Pipeline,
        *,
        captions: Captions,
        beside: tuple[Tokenizer, ImageTransform],
    ) -> EpochPlans | None:
        """Those of a run; None where epochs have the stream's own order (all ranks participate).

        Raises UserError for data whose samples have no numbers.
        """
        if settings.order.asks == "nothing":
            return None
        if isinstance(sources, Pipeline):
            raise UserError(
                f'plan.order.name is "{component_name(settings.order, Plan)}", but samples of a pipeline of your own '
                "(data.source) have no numbers that a plan could name: read them from data.shards"
            )
        group = BackgroundGroup.open(world)
        return EpochPlans(settings, run, group, str(world.device), sources, captions, beside)

    @property
    def folder(self) -> Path:
        """Where plans lie."""
        return self.run / "plans"

    def followed(self, state: Any) -> EpochPlan | None:
        """The plan that the stream followed whose state this is (all ranks participate).

        Raises UserError if it is not there any more.
        """
        checksum = plan_of(state)
        return self.group.from_rank_0(lambda: self._read(checksum)) if checksum else None

    def _read(self, checksum: str) -> EpochPlan:
        for path in self.folder.glob(f"*-{checksum[:16]}.plan"):
            plan = EpochPlan.read(path)
            if plan.sha256 == checksum:
                return plan
        raise UserError(
            f"the checkpoint stands in an epoch of the plan {checksum[:16]}, which is not in {self.folder}; restore "
            "the file, or give --training.no-resume to start over"
        )

    def due(self, stream: Any) -> bool:
        """Whether the next batch is the first of an epoch that has no plan yet."""
        if not isinstance(stream, Loader) or stream.batch:
            return False
        if stream.epoch < (0 if self.settings.model else self.settings.start):
            return False
        return not (isinstance(stream.order, Planned) and stream.order.plan.covers(stream.epoch))

    def plan(self, model: nn.Module, stream: Any) -> None:
        """Plan the next epochs, and have the stream follow (all ranks participate)."""
        begun = time.monotonic()
        known = self._alike(model)
        made = self.group.from_rank_0(lambda: self._made(stream, known, begun))
        stream.follow(made)

    def _alike(self, model: nn.Module) -> list[Alike]:
        """What is alike in each source, on rank 0."""
        if self._kept is not None:
            return self._kept
        scratch, settings = self.folder / SCRATCH, self.settings
        if self.group.rank == 0:
            shutil.rmtree(scratch, ignore_errors=True)
        paths = dict(self.captions.weights)
        every = Embedding(self._release(model), settings.kinds, paths, self.sources).all(self.group, scratch)
        known = [self._of_source(vectors, scratch / str(source)) for source, vectors in enumerate(every)]
        if settings.model:
            self._kept = known
        return known

    def _release(self, model: nn.Module) -> Release:
        """What says what is alike. Raises UserError for a model folder that cannot be read."""
        if self.settings.model:
            return release.load(self.settings.model, self.device)
        assert isinstance(model, DualEncoder)
        return Release(model, *self.beside, "", str(self.run))

    def _of_source(self, made: Vectors, folder: Path) -> Alike:
        settings, samples = self.settings, len(made.known)
        folder.mkdir(parents=True)
        stored, asked = made.vectors[settings.kinds[0]], made.vectors[settings.kinds[-1]]
        wanted = settings.order.wanted(samples)
        if settings.order.asks == "clusters":
            return clusters(stored, made.known, count=wanted, seed=0)
        kind = kind_for(samples, settings.exact_up_to)
        return neighbours(stored, asked, made.known, k=wanted, kind=kind, folder=folder)

    def _made(self, loader: Loader, known: list[Alike], begun: float) -> EpochPlan:
        """The plan from the loader's epoch on, written."""
        settings, first = self.settings, loader.epoch
        arranging = Arranging(loader.order, self.sources.numbering, settings.order, known)
        orders = np.stack([arranging.epoch(first + n) for n in range(settings.every)])
        small = orders.astype(np.int32) if self.sources.numbering.total < 2**31 else orders
        name = component_name(settings.order, Plan)
        plan = EpochPlan(small, first, bound_to(self.sources.shards), {"order": name, "vectors": settings.vectors})
        plan.write(self.folder / f"epoch-{first:06d}-{plan.sha256[:16]}.plan")
        if not settings.model:
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        last = f" to {first + settings.every - 1}" if settings.every > 1 else ""
        took = time.monotonic() - begun
        print(f"epoch {first}{last}: planned by {name} of {small.shape[1]:,} samples in {took:.1f} s", flush=True)
        return plan
