"""What was not delivered: counted by reason and shard, within a budget."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlp.errors import UserError
from vlp.files import write_whole

FILTERED = "filtered"
LEAST_SAMPLES = 50  # of fewer no share is taken
WHOLE_SHARDS = ("unreadable shard", "changed shard", "truncated tail")  # reasons that go for many samples of a shard
REASONS = (
    "unreadable shard",
    "changed shard",
    "corrupt tar",
    "truncated tail",
    "cut, unknown loss",
    "duplicate key",
    "unsafe name",
    "missing picture",
    "missing caption",
    "missing weight",
    "undecodable caption",
    "undecodable picture",
    "bomb-sized picture",
    FILTERED,
)
"""Every reason for which a sample is not delivered; `filtered` alone is meant, so the budget does not count it."""


class DropBudgetExceeded(UserError):
    """More samples were lost than the drop budget allows; the text is the table of losses."""


@dataclass
class Ledger:
    """Counts of what was delivered and of what was not, by reason and shard.

    A sample that is lost counts once an epoch, however often it is asked for.
    """

    delivered: int = 0
    again: int = 0
    """samples among `delivered` that had come in their epoch before, in place of lost ones or in its last batch"""
    drops: Counter[tuple[str, str]] = field(default_factory=Counter)
    restarts: int = 0
    """worker processes that died and were started again"""

    def drop(self, reason: str, shard: str, count: int = 1) -> None:
        """Count `count` samples of `shard` that were not delivered, and why (one of REASONS)."""
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}; known: {REASONS}")
        self.drops[reason, shard] += count

    @property
    def dropped(self) -> int:
        """Samples not delivered for any reason."""
        return sum(self.drops.values())

    @property
    def tried(self) -> int:
        """Samples that were delivered or not, each of them once an epoch."""
        return self.delivered - self.again + self.dropped

    @property
    def lost(self) -> int:
        """Samples not delivered although nobody asked for that: what the budget is about."""
        return sum(n for (reason, _), n in self.drops.items() if reason != FILTERED)

    def by_reason(self) -> dict[str, int]:
        """Count for each reason that occurred, in the order of REASONS."""
        total: Counter[str] = Counter()
        for (reason, _), n in self.drops.items():
            total[reason] += n
        return {r: total[r] for r in REASONS if total[r]}

    def merge(self, other: Ledger) -> None:
        """Add the counts of `other`."""
        self.delivered += other.delivered
        self.again += other.again
        self.restarts += other.restarts
        self.drops.update(other.drops)

    def state(self) -> dict[str, Any]:
        """The ledger as plain JSON values."""
        rows = [[reason, shard, n] for (reason, shard), n in sorted(self.drops.items())]
        return {"delivered": self.delivered, "again": self.again, "restarts": self.restarts, "drops": rows}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Ledger:
        """The ledger whose `state()` is given."""
        drops = Counter({(reason, shard): n for reason, shard, n in state["drops"]})
        return cls(state["delivered"], state.get("again", 0), drops, state.get("restarts", 0))

    def save(self, path: Path) -> None:
        """Write everything that is counted to `path` as JSON, all or nothing."""
        totals = {
            "delivered": self.delivered,
            "dropped": self.dropped,
            "lost": self.lost,
            "by_reason": self.by_reason(),
        }
        write_whole(path, json.dumps({**totals, **self.state()}, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The ledger that `save` wrote. Raises UserError if there is none."""
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"there is no ledger of delivered samples at {path} ({type(error).__name__})") from None

    def sentence(self) -> str:
        """One line for the end of a run."""
        said = f"{self.delivered:,} samples were delivered"
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in self.by_reason().items())
        said += f", {self.dropped:,} were not ({reasons})" if reasons else ", all that were asked for"
        restarts = f"; {self.restarts} {'worker' if self.restarts == 1 else 'workers'} died and went on"
        return said + (restarts if self.restarts else "")

    def table(self, shards: int = 10) -> str:
        """A table for the screen: losses by reason, and the `shards` worst shards."""
        lines = [f"{self.dropped:,} of {self.tried:,} samples were not delivered"]
        lines += [f"  {n:>10,}  {reason}" for reason, n in self.by_reason().items()]
        worst: Counter[str] = Counter()
        for (_, shard), n in self.drops.items():
            worst[shard] += n
        for shard, n in worst.most_common(shards):
            reasons = ", ".join(sorted(r for r, s in self.drops if s == shard))
            lines.append(f"  {n:>10,}  in {shard} ({reasons})")
        if len(worst) > shards:
            lines.append(f"              and in {len(worst) - shards} more shards")
        return "\n".join(lines)

    def check(self, budget: float, *, patience: int, promised: int = 0, ahead: int = 0) -> None:
        """Raise DropBudgetExceeded, with the table, if more than a share `budget` of the samples is lost.

        Nothing is said before `patience` samples were tried. `promised`: samples of the epochs that have begun, in all
        processes; losses beyond its budget are too many for certain. Before that they are too many if chance does not
        explain them: beyond 6 standard deviations, where losses come in as large groups as the worst shard's. `ahead`
        of them were known before anything was read: they are no part of that sample, and need no patience.
        Without `promised`, where an epoch has no known length, the share is that of the samples that were tried.
        """
        tried, lost = self.tried - ahead, self.lost - ahead
        if self.delivered == 0 and tried >= min(patience, 100) and not promised and self.drops:
            raise DropBudgetExceeded(self.nothing(tried))
        if 0 < promised < LEAST_SAMPLES:
            return
        if promised:
            worst = max((n for (reason, _), n in self.drops.items() if reason != FILTERED), default=0)
            likely = budget * tried + 6 * math.sqrt(max(0.0, budget * tried) * worst)
            certain = self.lost > budget * promised and (tried >= patience or ahead > budget * promised)
            over = certain or (tried >= patience and lost > likely)
        else:
            over = tried >= patience and lost > budget * tried
        if over:
            raise DropBudgetExceeded(
                f"{self.lost / (promised if self.lost > budget * promised > 0 else self.tried):.2%} of the samples "
                f"were lost, but drop_budget allows {budget:.2%}: repair the shards, or raise drop_budget if the loss "
                f"is meant\n{self.table()}"
            )

    def nothing(self, tried: int) -> str:
        """The sentence for a stream of which nothing is delivered, with the table."""
        return (
            f"nothing at all was delivered out of the first {tried:,} samples "
            f"(look at the filters, the captions asked for, and the shards)\n{self.table()}"
        )
