"""The page of a filter: pairs that each rule leaves out, beside those that just stay."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipelines.shards.decision import Decision
from eval.filtering.pool import Pool
from eval.filtering.rules import Rule, Verdict


def write_examples(done: Decision, pool: Pool, rules: Sequence[tuple[str, Rule]], verdicts: Sequence[Verdict]) -> None:
    """Write examples.html into the folder of a decision."""
