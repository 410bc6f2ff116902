"""Pairs whose caption fits the picture: by the cosine of their two vectors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from eval.filtering.kept import Kept
from eval.filtering.pool import Flags, Ints, Pool
from eval.filtering.rules import Border, Rule, Verdict, nothing
from vlp.errors import UserError

REASON = "low CLIP score"


@dataclass(frozen=True)
class ClipScore(Rule):
    """Keeps pairs by the cosine of picture and first caption (English where there is one)."""

    needs_texts: ClassVar[bool] = True
    scored: ClassVar[str] = "cosine of picture and caption"
    just_stays: ClassVar[Border] = "lowest"

    least: Annotated[float, Ge(-1), Le(1)] | None = None
    """the lowest score that stays"""
    share: Annotated[float, Gt(0), Le(1)] | None = None
    """so much of the samples stays, the best ones, rounded up; ties are broken by shard and key"""
    by: str = ""
    """the share is taken within each "language", or each value of a field of the metadata, such as artist"""

    def refuse(self, pool: Pool) -> None:
        """Neither bound, or groups without a share."""
        if self.least is None and self.share is None:
            raise UserError("the rule clip_score needs a bound: least=0.25 for a score, share=0.3 for the best samples")
        if self.by and self.share is None:
            raise UserError(f"the rule clip_score has by={self.by}, which only a share is taken by: give share=0.3 too")

    def judge(self, pool: Pool, stays: Flags, kept: Kept) -> Verdict:
        """Both bounds, where both are given."""
        reason, score, like = nothing(len(pool))
        for block, some in pool.blocks(stays, "comparing pictures and captions"):
            score[some] = kept.array(f"score-{block}", partial(cosines, pool, some))
        out = np.zeros(len(pool), bool)
        if self.least is not None:
            out |= stays & (score < self.least)
        about: dict[str, Any] = {}
        if self.share is not None:
            groups, names = _groups(pool, stays, self.by) if self.by else (np.zeros(len(pool), np.int32), ["all"])
            for code, name in enumerate(names):
                group = np.flatnonzero(stays & (groups == code))
                best = group[np.lexsort((pool.tie[group], -score[group]))]
                most = math.ceil(self.share * len(best))
                out[best[most:]] = True
                about[name] = {"samples": len(best), "stay": most, "bound": round(float(score[best[most - 1]]), 6)}
        reason[out] = 1
        return Verdict((REASON,), reason, score, like, {"groups": about} if about else {})


def cosines(pool: Pool, some: Ints) -> NDArray[np.float32]:
    """[n] the cosine of picture and caption of each of these samples."""
    images, texts = pool.vectors(some), pool.vectors(some, "text")
    return np.asarray((images * texts).sum(axis=1), np.float32)


def _groups(pool: Pool, stays: Flags, by: str) -> tuple[NDArray[np.int32], list[str]]:
    """([N] number of each sample's group, names of the groups in alphabetical order)."""
    codes, known = np.full(len(pool), -1, np.int32), dict[str, int]()
    of_row = np.full(len(pool.stored), -1, np.int64)
    numbers = np.flatnonzero(stays)
    of_row[pool.row[numbers]] = numbers
    for part in range(len(pool.stored.store.parts)):
        start = int(pool.stored.starts[part])
        for n, value in enumerate(_values(pool, part, by)):
            if (number := of_row[start + n]) >= 0:
                codes[number] = known.setdefault(value, len(known))
    names = sorted(known)
    renumbered = np.empty(len(known) + 1, np.int32)
    renumbered[-1] = -1
    for new, name in enumerate(names):
        renumbered[known[name]] = new
    return renumbered[codes], names


def _values(pool: Pool, part: int, by: str) -> Iterator[str]:
    rows = pool.stored.rows(part)
    column = "captions" if by == "language" else "metadata"
    if column not in rows.column_names:
        raise UserError(
            f"the rows of {pool.stored.store.folder} have no column {column}, so there is no {by} to group by; "
            "embed again with `vlp embed`"
        )
    for text in rows[column].to_pylist():
        tree = json.loads(text or "{}")
        if by == "language":
            yield "en" if tree.get("en") else next(iter(tree), "none")
        else:
            value: Any = tree
            for step in by.split("."):
                value = value.get(step) if isinstance(value, dict) else None
            yield "none" if value is None else str(value)
