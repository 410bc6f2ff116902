"""The batches of one rank, and their position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from data_pipelines.ledger import Ledger
from data_pipelines.loading.epoch_order import Order
from data_pipelines.loading.planned import EpochPlan, planned
from data_pipelines.loading.position import STATE_FORMAT, cannot_resume, difference, order_facts, plan_of
from data_pipelines.loading.rows import RowReader, Rows
from data_pipelines.loading.workers import Pool
from data_pipelines.settings import Workers
from vlp.batch import Batch
from vlp.errors import UserError


class Loader:
    """The batches of one rank, for ever; epoch follows epoch."""

    def __init__(self, reader: RowReader, order_facts: Mapping[str, Any], workers: Workers, lost: Ledger) -> None:
        """`lost` is what every epoch lacks before anything is read; it is counted here, once an epoch."""
        self._reader, self._settings, self._lost = reader, workers, lost
        self._order_facts = dict(order_facts)
        self._prints = "".join(one for source in reader.sources for one in source.fingerprints())
        self._pool: Pool | None = None
        self._shifts: dict[int, int] = {}  # of the last batch handed out
        self.epoch, self.batch = 0, 0  # of the next batch
        self.numbers = reader.numbering.total
        """samples that are numbered: `Batch.numbers` are below it"""
        self.samples_per_epoch = reader.order.samples
        self.batches_per_epoch = reader.order.batches
        self.ledger = Ledger()
        """what this rank delivered and what it could not"""
        self.ledger.merge(lost)
        self._check()

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the present position on; [B / ranks] rows each. Raises DropBudgetExceeded."""
        while True:
            yield self._next()

    def _next(self) -> Batch:
        if self.epoch and not self.batch:
            self.ledger.merge(self._lost)
        rows = self._rows()
        self._shifts = rows.shifts
        self.ledger.again += rows.again
        self.ledger.delivered += len(rows.pairs)
        for _, reason, shard in rows.dropped:
            self.ledger.drop(reason, shard)
        self._check()
        self.batch += 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch, self._shifts = self.epoch + 1, 0, {}
        return rows.pairs.pin_memory() if self._settings.pin else rows.pairs

    def _check(self) -> None:
        """Raise DropBudgetExceeded if more is lost than the budget allows of the epochs that have begun."""
        epochs, recipe = self.epoch + 1, self._reader.recipe
        self.ledger.check(
            recipe.drop_budget,
            patience=self._reader.patience,
            promised=epochs * (self.samples_per_epoch + self._lost.dropped),
            ahead=epochs * self._lost.dropped,
        )

    def _rows(self) -> Rows:
        """The rows of the next batch, made here or by the workers."""
        if not self._settings.count:
            return self._reader.read(self.epoch, self.batch)
        if self._pool is None:
            self._pool = self._started()
        rows = self._pool.next()
        self.ledger.restarts += self._pool.died()
        return rows

    def _started(self) -> Pool:
        rows, n = self._reader.rows, min(self._settings.count, len(self._reader.rows))
        cuts = [rows.start + w * len(rows) // n for w in range(n + 1)]
        return Pool(
            [self._reader.part(range(a, b)) for a, b in pairwise(cuts)],
            start=(self.epoch, self.batch),
            prefetch=self._settings.prefetch,
            method=self._settings.start_method,
        )

    def close(self) -> None:
        """Stop the workers, if there are any; the position stays, and iterating starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
            self._reader.epoch, self._reader.shifts = self.epoch, dict(self._shifts)

    @property
    def order(self) -> Order:
        """The order of its epochs."""
        return self._reader.order

    def follow(self, plan: EpochPlan) -> None:
        """Go on in the order of a plan, at the beginning of an epoch. Raises UserError for a plan of other shards."""
        assert not self.batch, "an epoch that has begun keeps its order"
        self.close()
        self._reader.order = planned(self.order, self._reader.numbering, plan, self._reader.sources)
        self._order_facts = order_facts(self.order, self._reader.sources)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out, as plain JSON values; collect those of all ranks to resume."""
        return {
            "format": STATE_FORMAT,
            "order": self._order_facts,
            "epoch": self.epoch,
            "batch": self.batch,
            "shifts": [list(s) for s in sorted(self._shifts.items())],
            "prints": "" if self._reader.rows.start else self._prints,
            "rows": [[self._reader.rows.start, self._reader.rows.stop]],
            "ledger": self.ledger.state(),
            "in_epoch": [self.samples_per_epoch, self._lost.dropped] if not self._reader.rows.start else [],
        }

    def restore(self, state: Mapping[str, Any], *, first: bool) -> None:
        """Go to the position of a merged state; the earlier ledger is carried on by the `first` rank.

        Raises UserError if the state is of another stream, or lacks the rows of this rank.
        """
        if state.get("format") != STATE_FORMAT:
            raise UserError(f"the stream state has format {state.get('format')!r}, expected {STATE_FORMAT!r}")
        if plan_of(state) != (plan := self._order_facts.get("plan", "")):
            raise UserError(
                f"the stream cannot resume: its plan was {plan_of(state)[:12] or 'none'} and is {plan[:12] or 'none'}; "
                "give the plan that it followed, or start without the stream's state"
            )
        for name, now in self._order_facts.items():
            then = state["order"].get(name)
            if then != now and name == "shards":
                self._refuse_shards(state)
            if then != now:
                raise UserError(
                    f"the stream cannot resume: its {name} was {then} and is {now}, which changes the order; "
                    "restore it, or start without the stream's state"
                )
        if state.get("prints") and state["prints"] != self._prints:
            self._refuse_shards(state)
        covered = {row for start, stop in state["rows"] for row in range(start, stop)}
        if not covered.issuperset(self._reader.rows):
            raise UserError(
                "the stream state lacks rows of this rank: collect state_dict() of every rank when saving, "
                "and give the list (or merge_states of it) when opening"
            )
        self._reader.resumed = True
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
        self._shifts = {row: n for row, n in state["shifts"] if row in self._reader.rows}
        self._reader.epoch, self._reader.shifts = self.epoch, dict(self._shifts)
        own = [[self._reader.rows.start, self._reader.rows.stop]]
        if first or [list(r) for r in state["rows"]] == own:
            self.ledger = Ledger.of(state["ledger"])

    def _refuse_shards(self, state: Mapping[str, Any]) -> None:
        """Raise UserError, which names the shard that is not what it was."""
        names = [url for source in self._reader.sources for url in source.urls]
        raise UserError(cannot_resume(difference(state.get("prints", ""), self._prints, names)))
