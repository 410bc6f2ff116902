"""Questions that the race does not ask: noise, a small tower with a teacher, pairs to a score, word order, faults."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.objectives import faults, judging
from benchmarks.objectives.judging import mean_scored
from benchmarks.objectives.measuring import LANGUAGES
from benchmarks.objectives.recipes import CONDITIONS, DEMO, LOOKED_UP, PIXELS, RECIPES, Condition, together
from benchmarks.objectives.runs import Done, Failed, Run, finished
from benchmarks.objectives.stages import Bench, Results, scores
from eval.datasets.word_order import WordOrder
from eval.embeddings.split import KeptSplit
from eval.tasks.caption_choice import CaptionChoice
from vlp.files import write_whole
from vlp.models import release as releases

Row = dict[str, Any]
AGAINST_NOISE = ("history", "alip", "jest")
HALF = ("--model.width", "128", "--model.image.widths", "16", "32", "64", "128", "--model.text.hidden", "128")
TAUGHT = ("features", "distill")
"""recipes with a teacher that a tower of half the width is trained by, each alone and both together"""
SHARES = (0.4, 0.7, 1.0)
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


def half_width(bench: Bench) -> list[Row]:
    """A tower of half the width, alone and with a teacher, at equal pairs."""
    taught = {name: bench.recipes[name].words for name in TAUGHT if name in bench.recipes}
    if not taught:
        return [lacking("half_width", "no recipe with a teacher is there")]
    if len(taught) > 1 and (both := together(*(bench.recipes[name] for name in TAUGHT))):
        taught[" + ".join(TAUGHT)] = (*RECIPES[DEMO].words, *both)
    runs = {
        name: [
            bench.with_words(Run("case", f"half, {name}", "as is", seed, bench.sizes.race, ()), (*words, *HALF))
            for seed in bench.seeds(10)
        ]
        for name, words in {"alone": RECIPES[DEMO].words, **taught}.items()
    }
    results = bench.train(run for some in runs.values() for run in some)
    alone = [done for run in runs["alone"] if isinstance(done := results[run], Done)]
    if not alone:
        return [lacking("half_width", why(list(results.values())))]
    rows = [case("half_width/alone", "MRR of a tower of half the width", "MRR", [done.mrr for done in alone])]
    for name in taught:
        own = [done for run in runs[name] if isinstance(done := results[run], Done)]
        pairs = [(one, peer) for one in own for peer in alone if one.run.seed == peer.run.seed]
        lack = lacking(f"half_width/{name}", why(list(results.values())))
        rows += gained(f"half_width/{name}", "MRR of the same tower with its teacher", pairs) if pairs else [lack]
    return rows


def looked_up(bench: Bench) -> list[Row]:
    """Features of a teacher that has seen each picture once, before the run: what they gain, and what a pair costs."""
    if "features" not in bench.recipes:
        return [lacking("looked_up", "the recipe features is not there")]
    seeds = bench.seeds(10)
    demo = [bench.run("case", DEMO, seed, bench.sizes.race) for seed in seeds]
    stored = [Run("case", "features, stored", "as is", seed, bench.sizes.race, ()) for seed in seeds]
    stored = [bench.with_words(run, (*RECIPES[DEMO].words, *LOOKED_UP)) for run in stored]
    results = bench.train([*demo, *stored])
    both = [(results[own], results[peer]) for own, peer in zip(stored, demo, strict=True)]
    pairs = [(own, peer) for own, peer in both if isinstance(own, Done) and isinstance(peer, Done)]
    if not pairs:
        return [lacking("looked_up", why(list(results.values())))]
    seconds = [own.seconds / peer.seconds for own, peer in pairs]
    return [
        *gained("looked_up/features", "MRR of `demo` with a teacher's stored features", pairs),
        case("looked_up/seconds", "seconds a trained pair, as a multiple of `demo`'s", "ratio", seconds),
    ]


def gained(name: str, what: str, pairs: Sequence[tuple[Done, Done]]) -> list[Row]:
    """The MRR of taught runs, and what they gain as a share of that of their peers; pairs by seed."""
    own, peers = ([pair[side].scored["val"] for pair in pairs] for side in (0, 1))
    gains = judging.gains(own, peers)
    drawn = judging.resampled(mean_scored(own), mean_scored(peers), judging.noise([gains]), len(pairs))
    base = mean(peer.mrr for peer in peers)
    bounds = [bound / base for bound in judging.interval(drawn)]
    share = [gains.mean() / base]
    return [
        case(name, what, "MRR", [one.mrr for one in own], [one.mrr for one in peers]),
        case(f"{name}/gain", "gain as a share of the MRR without it", "share", share, interval=bounds),
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


def word_order(bench: Bench) -> list[Row]:
    """Of two captions with the same words, which is true? Before and after swapped words as negatives."""
    words = {"before": ("negclip", *PIXELS, "--data.negatives.name", "none"), "after": ("negclip", *PIXELS)}
    runs = {
        name: [
            bench.with_words(Run("case", f"negclip, {name}", "as is", seed, bench.sizes.screen, ()), own)
            for seed in bench.seeds(10)
        ]
        for name, own in words.items()
    }
    results = bench.train(run for some in runs.values() for run in some)
    done = {name: [one for run in some if isinstance(one := results[run], Done)] for name, some in runs.items()}
    if not all(done.values()):
        return [lacking("word_order", why(list(results.values())))]
    shares = {name: [caption_choice(one) for one in some] for name, some in done.items()}
    rows = []
    for language in LANGUAGES:
        for name, some in shares.items():
            what = f"right captions, {language}, {'without' if name == 'before' else 'with'} swapped words in training"
            rows.append(case(f"word_order/{language}/{name}", what, "share", [one[language] for one in some]))
    return [*rows, *(case(f"word_order/{n}/mrr", "MRR on val", "MRR", [d.mrr for d in o]) for n, o in done.items())]


def caption_choice(done: Done) -> dict[str, float]:
    """Language -> share of pictures of two things on val whose caption is preferred to the one the other way round."""
    path = done.run.folder / "word_order.json"
    if not path.is_file():
        release = releases.load(done.run.folder / "model")
        split = KeptSplit(WordOrder(root="bundled:emoji/val", pairs=300), release.transform, None).embedded(release)
        measured = CaptionChoice(languages=LANGUAGES).measure(split)
        shares = {language: measured[f"{language}/caption_choice/accuracy"].value for language in LANGUAGES}
        write_whole(path, json.dumps(shares) + "\n")
    read: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return read


def planted(bench: Bench) -> list[Row]:
    """How well parts find 30 % swapped captions, by what they go by."""
    names = [name for name in AGAINST_NOISE if name in bench.recipes]
    if "noisy" not in CONDITIONS or not names:
        return [lacking("faults", "no captions are swapped on purpose, or nothing is there that looks for them")]
    sizes = {"early": bench.sizes.screen, "late": bench.sizes.race}
    runs = [
        bench.run("case", name, seed, pairs, "noisy")
        for name in names
        for pairs in sizes.values()
        for seed in bench.seeds(10)
    ]
    results = bench.train(runs)
    rows = []
    for name in names:
        for when, pairs in sizes.items():
            own = finished(results, lambda run, n=name, p=pairs: run.recipe == n and run.pairs == p)
            what = f"AUC with which {name} finds swapped captions after {pairs:,} pairs"
            aucs = [faults.found(name, done.run.folder, bench.teacher) for done in own]
            rows.append(
                case(f"faults/{name}/{when}", what, "AUC", aucs) if aucs else lacking(f"faults/{name}", "no run")
            )
    return rows


CASES: Mapping[str, Callable[[Bench], list[Row]]] = {
    "noise": noise,
    "half_width": half_width,
    "looked_up": looked_up,
    "samples_to_score": jest,
    "word_order": word_order,
    "faults": planted,
}


def run(bench: Bench, names: Sequence[str]) -> list[Row]:
    """The rows of these cases."""
    return [row for name in names for row in CASES[name](bench)]
