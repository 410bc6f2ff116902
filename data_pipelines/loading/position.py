"""Where a stream stands: the part of a checkpoint that the data need, and what must be equal to go on from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.ledger import Ledger
from data_pipelines.loading.epoch_order import Order
from data_pipelines.shards.open_shards import OpenShards
from vlp.errors import UserError

STATE_FORMAT = "vlp-stream-1"
PIPELINE_FORMAT = "vlp-pipeline-1"  # of a pipeline of the user's own, whose ranks may be in different epochs


def order_facts(order: Order, opened: Sequence[OpenShards]) -> dict[str, Any]:
    """What the order of batches depends on, part by part."""
    parts = [
        [[u.rsplit("/", 1)[-1] for u in shards.urls], source.counts.tolist(), source.draws]
        for shards, source in zip(opened, order.sources, strict=True)
    ]
    return {
        "seed": order.seed,
        "global_batch": order.global_batch,
        "lanes": order.lanes,
        "window": order.window,
        "last": order.last,
        "shards": hashlib.sha256(repr(parts).encode()).hexdigest()[:16],
    }


def merge_states(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One state out of the `state_dict` of every rank; raises UserError if they are not of the same step."""
    every = list(states)
    if not every:
        raise UserError("no stream state was given to resume from")
    base = every[0]
    ledger, shifts, rows = Ledger(), {}, []
    for s in every:
        for name in ("format", "order", "batch", *(() if base["format"] == PIPELINE_FORMAT else ("epoch",))):
            if s[name] != base[name]:
                raise UserError(f"the stream states of different ranks disagree on {name}: {s[name]} and {base[name]}")
        ledger.merge(Ledger.of(s["ledger"]))
        shifts.update(dict(s["shifts"]))
        rows += s["rows"]
    counted = {"epoch": max(s["epoch"] for s in every), "ledger": ledger.state()}
    return {**base, **counted, "shifts": sorted(shifts.items()), "rows": sorted(rows)}
