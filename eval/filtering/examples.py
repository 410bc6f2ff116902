"""The page of a filter: pairs that each rule leaves out, with what they are like, beside those that only just stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.remote.patience import Unreadable
from data_pipelines.sample import Sample
from data_pipelines.shards.decision import Decision
from eval.filtering.pool import Flags, Ints, Pool
from eval.filtering.rules import NOBODY, STAYS, Rule, Verdict
from eval.search.page import data_uri
from eval.search.parts import shrunk
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import plain
from vlp.page import render
from vlp.page.chart import Bar, bar_chart
from vlp.pictures import Refused

TEMPLATE = Path(__file__).parent / "examples_page.html"
PAGE = "examples.html"
LEFT_OUT, STAY = 16, 8  # examples of each reason, and of what stays
SIDE = 128  # pixels
BINS = 48
Tree = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """What a rule has decided, and on which samples."""

    name: str
    rule: Rule
    verdict: Verdict
    before: Flags  # [N] what stayed before it


def write_examples(done: Decision, pool: Pool, rules: Sequence[Shown]) -> None:
    """Write examples.html into the folder of a decision."""
    parts = [_part(pool, one, told) for one, told in zip(rules, done.about["rules"], strict=True)]
    counts = [("no vector", done.counts["no vector"])] if "no vector" in done.counts else []
    counts += [(f"{part['name']}: {reason}", count) for part in parts for reason, count in part["left_out"]]
    stay = done.samples - done.left_out
    page = render(
        TEMPLATE,
        title=done.about["shards"].removeprefix("bundled:"),
        tiles=[(f"{done.samples:,}", "samples"), (f"{stay:,}", "stay"), (f"{stay / done.samples:.1%}", "of them")],
        counts=[(what, f"{count:,}", 100 * count / done.samples) for what, count in counts],
        parts=parts,
    )
    write_whole(done.folder / PAGE, page)


def _part(pool: Pool, one: Shown, told: Tree) -> Tree:
    verdict = one.verdict
    known = {*told["left_out"], "rule", "left_out", "stay", "name"}
    settings = {key: value for key, value in told.items() if key not in known and not isinstance(value, dict)}
    groups = [
        (
            reason,
            f"{told['left_out'][reason]:,}",
            [_example(pool, one, n) for n in spread(pool, verdict, np.flatnonzero(verdict.reason == number))],
        )
        for number, reason in enumerate(verdict.reasons, 1)
    ]
    stays = np.flatnonzero(one.before & (verdict.reason == STAYS))
    return {
        "name": one.name,
        "about": (type(one.rule).__doc__ or "").split("\n")[0].replace("`", ""),
        "settings": " · ".join(_setting(key, value) for key, value in settings.items() if value not in ("none", "")),
        "left_out": list(told["left_out"].items()),
        "groups": [group for group in groups if group[2]],
        "stays": [_example(pool, one, n) for n in _just(pool, one, stays)],
        "chart": _chart(one),
        "scored": one.rule.scored,
        "border": one.rule.just_stays != "any",
        "bounds": [(name, f"{group['bound']:.3f}") for name, group in told.get("groups", {}).items()][:12],
    }


def _setting(key: str, value: object) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{key.replace('_', ' ')} {plain(shown)}"


def spread(pool: Pool, verdict: Verdict, numbers: Ints, most: int = LEFT_OUT) -> Ints:
    """At most so many of these samples, evenly from the lowest score to the highest."""
    order = numbers[np.lexsort((pool.tie[numbers], verdict.score[numbers]))]
    places = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(np.int64)
    return np.asarray(order[places])


def _just(pool: Pool, one: Shown, numbers: Ints) -> Ints:
    """Samples that only just stay, where the rule has such; else some that stay."""
    if one.rule.just_stays == "any":
        return spread(pool, one.verdict, numbers, STAY)
    scored = numbers[~np.isnan(one.verdict.score[numbers])]
    score = one.verdict.score[scored] * (1 if one.rule.just_stays == "lowest" else -1)
    return np.asarray(scored[np.lexsort((pool.tie[scored], score))][:STAY])


def _example(pool: Pool, one: Shown, number: int) -> Tree:
    shard, place = pool.place(number)
    try:
        raw = pool.opened.sample(shard, place)
        sample = Sample.of_record(raw.key, raw.image, raw.image_format, raw.record)
        caption, picture = sample.captions.get("en") or sample.text, raw.image
    except Unreadable:
        caption, picture = "(cannot be read)", b""
    like, score = int(one.verdict.like[number]), float(one.verdict.score[number])
    name, other = _other(pool, one.rule, like) if like != NOBODY else ("", b"")
    return {
        "uri": _uri(picture),
        "caption": plain(caption),
        "title": plain(pool.name(number)),
        "score": "" if np.isnan(score) else f"{score:.3f}",
        "like": _uri(other) if other else "",
        "like_title": plain(name),
    }


def _other(pool: Pool, rule: Rule, like: int) -> tuple[str, bytes]:
    """Name and picture of what a sample is like; no picture where it is not to be had."""
    try:
        return rule.liked(pool, like)
    except (Unreadable, UserError):
        return rule.named(pool, like), b""


def _uri(picture: bytes) -> str:
    try:
        return data_uri(shrunk(picture, SIDE)) if picture else ""
    except Refused:
        return ""


def _chart(one: Shown) -> str:
    """A histogram of the scores of what came to a rule; nothing where there are none, or where all are one."""
    scores = one.verdict.score[one.before]
    scores = scores[~np.isnan(scores)]
    if not len(scores) or scores.min() == scores.max():
        return ""
    counts, edges = np.histogram(scores, BINS)
    bars = [Bar(float(low), float(high), int(n)) for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)]
    return bar_chart(bars, x_label=one.rule.scored, y_label="samples", logarithmic=False)
