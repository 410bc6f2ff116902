"""Where a stream stands: the part of a checkpoint that the data need, and what must be equal to go on from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.ledger import Ledger
from data_pipelines.loading.epoch_order import Order
from data_pipelines.loading.planned import Planned
from data_pipelines.shards.open_shards import OpenShards
from vlp.errors import UserError

STATE_FORMAT = "vlp-stream-1"
PATIENCE = 1000  # samples that are tried before a share of them is compared with a budget
PIPELINE_FORMAT = "vlp-pipeline-1"  # of a pipeline of the user's own, whose ranks may be in different epochs


def order_facts(order: Order, opened: Sequence[OpenShards]) -> dict[str, Any]:
    """What the order of batches depends on, part by part."""
    parts = [
        [[u.rsplit("/", 1)[-1] for u in shards.urls], source.counts.tolist(), source.draws]
        for shards, source in zip(opened, order.sources, strict=True)
    ]
    plan = {"plan": order.plan.sha256} if isinstance(order, Planned) else {}
    return {
        **plan,
        "seed": order.seed,
        "global_batch": order.global_batch,
        "lanes": order.lanes,
        "window": order.window,
        "last": order.last,
        "shards": hashlib.sha256(repr(parts).encode()).hexdigest()[:16],
    }


def plan_of(state: Any) -> str:
    """The checksum of the plan that a stream followed whose state this is, or a list of them; "" without one."""
    state = state[0] if isinstance(state, list | tuple) and state else state
    return str(state["order"].get("plan", "")) if isinstance(state, Mapping) and "order" in state else ""


def cannot_resume(why: str) -> str:
    """The sentence for shards that are not those of the earlier part of the run."""
    return f"the stream cannot resume: {why}; restore it, or start without the stream's state"


def difference(then: str, now: str, names: Sequence[str]) -> str:
    """What became of the shards, in words: their fingerprints (8 characters each) then and now, and their names now."""
    before, after = ([text[at : at + 8] for at in range(0, len(text), 8)] for text in (then, now))
    others = [name for name, one in zip(names, after, strict=True) if one not in set(before)]
    gone = [place for place, one in enumerate(before) if one not in set(after)]
    if not then:
        return "the shards, or how many samples they have, are others than they were"
    if len(before) == len(after) and others:
        return f"the shard {others[0]} was replaced or damaged{_more(others)}"
    said = [f"the shard {others[0]} was not there{_more(others)}"] if others else []
    if gone:
        after_which = (
            f", after {names[after.index(before[gone[0] - 1])]}" if gone[0] and gone[0] - 1 not in gone else ""
        )
        said.append(f"shard number {gone[0] + 1} of {len(before)}{after_which}, is missing{_more(gone)}")
    return " and ".join(said) or "the shards stand in another order"


def _more(some: Sequence[object]) -> str:
    return f" (and {len(some) - 1} more)" if len(some) > 1 else ""


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
    prints = next((s["prints"] for s in every if s.get("prints")), "")
    in_epoch: list[int] = next((s["in_epoch"] for s in every if s.get("in_epoch")), [])
    counted = {"prints": prints, "epoch": max(s["epoch"] for s in every), "ledger": ledger.state()}
    return {**base, **counted, "in_epoch": in_epoch, "shifts": sorted(shifts.items()), "rows": sorted(rows)}


def check_losses(merged: Mapping[str, Any], budget: float) -> None:
    """Raise DropBudgetExceeded if all ranks, whose states are `merged`, have together lost more than the `budget`.

    Each rank compares its own losses as they come, and cannot know of the others'.
    """
    ledger = Ledger.of(merged["ledger"])
    samples, lost = merged.get("in_epoch") or (0, 0)  # of each epoch: what the order has, and what was lost before it
    epochs = merged["epoch"] + 1
    ledger.check(
        budget, patience=min(PATIENCE, samples or PATIENCE), promised=epochs * (samples + lost), ahead=epochs * lost
    )
