"""Questions that the race does not ask: noise, a small tower with a teacher, pairs to a score, word order, faults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.objectives import judging
from benchmarks.objectives.judging import mean_scored
from benchmarks.objectives.recipes import CONDITIONS, DEMO, RECIPES, Condition
from benchmarks.objectives.runs import Done, Failed, Run, finished
from benchmarks.objectives.stages import Bench, Results, scores

Row = dict[str, Any]
AGAINST_NOISE = ("history", "alip", "jest")
HALF = ("--model.width", "128", "--model.image.widths", "16", "32", "64", "128", "--model.text.hidden", "128")
SHARES = (0.4, 0.6, 0.8, 1.0)
"""of the pairs of the race: budgets with which JEST is trained, each with a schedule of its own"""


def case(name: str, what: str, unit: str, ours: Sequence[float], peer: Sequence[float] = (), **more: Any) -> Row:
    """One row: what was asked in words, and the means over seeds."""
    row = record.row(f"case/{name}", unit, ours, peer, DEMO) | {"stage": "case", "what": what, **more}
    return row | {"ours": mean(ours), "peer": mean(peer) if peer else None}


def lacking(name: str, reason: str) -> Row:
    """A row that says why a question has no answer."""
    row = record.row(f"case/{name}", "", [math.nan]) | {"ours": None, "stage": "case", "what": ""}
    return row | {"failed": reason}


def noise(bench: Bench) -> list[Row]:
    """The share of what 30 % swapped captions cost that an objective or a sampler wins back."""
    names = [name for name in AGAINST_NOISE if name in bench.recipes]
    if "noisy" not in CONDITIONS or not names:
        return [lacking("noise", "no captions are swapped on purpose, or nothing is there that stands it")]
    asked: list[tuple[str, Condition]] = [(DEMO, "as is"), *((name, "noisy") for name in (DEMO, *names))]
    runs = {
        (name, condition): [bench.run("case", name, seed, bench.sizes.race, condition) for seed in bench.seeds(10)]
        for name, condition in asked
    }
    results = bench.train(run for some in runs.values() for run in some)
    done = {key: [results[run] for run in some] for key, some in runs.items()}
    sound = {key: [one for one in some if isinstance(one, Done)] for key, some in done.items()}
    pool = judging.noise([np.array([one.mrr for one in some]) for some in sound.values()])
    clean, spoilt = (sound[DEMO, condition] for condition in ("as is", "noisy"))
    if not clean or not spoilt:
        return [lacking("noise", "demo did not finish")]
    lost = [(b.mrr - a.mrr) / b.mrr for a, b in zip(spoilt, clean, strict=True)]
    rows = [case("noise/lost", "share of the MRR that 30 % swapped captions cost `demo`", "share", lost)]
    for name in names:
        own = sound[name, "noisy"]
        if not own:
            rows.append(lacking(f"noise/{name}", why(done[name, "noisy"])))
            continue
        three = [mean_scored(scores(some, "val")) for some in (clean, spoilt, own)]
        share, bounds = judging.share_won_back(*three, pool, len(own))
        rows.append(case(f"noise/{name}", "share of that which is won back", "share", [share], interval=list(bounds)))
    return rows


def why(some: Sequence[Done | Failed]) -> str:
    """The reason of the first one that failed."""
    return next((one.reason for one in some if isinstance(one, Failed)), "")


def distill(bench: Bench) -> list[Row]:
    """A tower of half the width, alone and with a teacher, at equal pairs."""
    if "distill" not in bench.recipes:
        return [lacking("distill", "the recipe distill is not there")]
    words = {"alone": RECIPES[DEMO].words, "taught": bench.recipes["distill"].words}
    runs = {
        name: [
            bench.with_words(Run("case", f"half, {name}", "as is", seed, bench.sizes.race, ()), (*own, *HALF))
            for seed in bench.seeds(10)
        ]
        for name, own in words.items()
    }
    results = bench.train(run for some in runs.values() for run in some)
    alone, taught = ([results[run] for run in runs[name]] for name in words)
    pairs = [(b, a) for a, b in zip(alone, taught, strict=True) if isinstance(a, Done) and isinstance(b, Done)]
    if not pairs:
        return [lacking("distill", why([*taught, *alone]))]
    own, peers = ([pair[side].scored["val"] for pair in pairs] for side in (0, 1))
    gains = judging.gains(own, peers)
    drawn = judging.resampled(mean_scored(own), mean_scored(peers), judging.noise([gains]), len(pairs))
    base = mean(peer.mrr for peer in peers)
    bounds = [bound / base for bound in judging.interval(drawn)]
    values = [one.mrr for one in own], [one.mrr for one in peers]
    return [
        case("distill/alone", "MRR of a tower of half the width", "MRR", values[1]),
        case("distill/taught", "MRR of the same tower with its teacher", "MRR", *values),
        case("distill/gain", "gain as a share of its own MRR", "share", [gains.mean() / base], interval=bounds),
    ]


def jest(bench: Bench) -> list[Row]:
    """How many pairs JEST needs for the score that `demo` has after all of its own."""
    if "jest" not in bench.recipes:
        return [lacking("jest", "the recipe jest is not there")]
    budgets = [round(share * bench.sizes.race) for share in SHARES]
    runs = [bench.run("case", DEMO, seed, bench.sizes.race) for seed in bench.seeds(10)]
    runs += [bench.run("case", "jest", seed, pairs) for seed in bench.seeds(10) for pairs in budgets]
    results = bench.train(runs)
    demos = finished(results, lambda run: run.recipe == DEMO)
    curve = {pairs: own for pairs in budgets if (own := at_budget(results, pairs))}
    if not demos or len(curve) < 2:
        return [lacking("jest", why(list(results.values())))]
    target = mean(done.mrr for done in demos)
    needed = pairs_to({pairs: mean(one.mrr for one in own) for pairs, own in curve.items()}, target)
    seconds = mean(one.seconds / one.pairs for own in curve.values() for one in own)
    base = mean(done.seconds / done.pairs for done in demos)
    rows = [
        case("jest/demo", f"pairs after which `demo` has an MRR of {target:.3f}", "pairs", [bench.sizes.race]),
        case("jest/seconds", "seconds a trained pair, as a multiple of `demo`'s", "ratio", [seconds / base]),
    ]
    if needed is None:
        return [*rows, lacking("jest/jest", f"with {max(budgets):,} pairs it stays below {target:.3f}")]
    return [*rows, case("jest/jest", "pairs after which JEST has it", "pairs", [needed])]


def at_budget(results: Results, pairs: int) -> list[Done]:
    """The finished runs of JEST with so many pairs."""
    return finished(results, lambda run: run.recipe == "jest" and run.pairs == pairs)


def pairs_to(curve: Mapping[int, float], target: float) -> float | None:
    """The first number of pairs at which a curve, a line in log(pairs) between its points, reaches a target.

    The first point where it is above already, None where it never is:

    >>> round(pairs_to({100: 0.1, 400: 0.2}, 0.15)), pairs_to({100: 0.1, 400: 0.2}, 0.05), pairs_to({100: 0.1}, 0.2)
    (200, 100, None)
    """
    points = sorted(curve)
    if curve[points[0]] >= target:
        return points[0]
    for low, high in pairwise(points):
        if curve[high] >= target:
            share = (target - curve[low]) / (curve[high] - curve[low])
            return low * (high / low) ** share
    return None


CASES: Mapping[str, Callable[[Bench], list[Row]]] = {
    "noise": noise,
    "half_width": distill,
    "samples_to_score": jest,
}


def run(bench: Bench, names: Sequence[str]) -> list[Row]:
    """The rows of these cases."""
    return [row for name in names for row in CASES[name](bench)]
